/* Every setting of `otter serve`. */
#include "config/option-table.h"

#include <string.h>

static const char *const kv_words[] = {"f16", "f32", NULL};
static const char *const log_words[] = {"off", "plain", "json", NULL};

#define AT(member) offsetof(ot_config, member)

const ot_option ot_option_table[] = {
    {"model", OT_OPTION_STRING, AT(model_path), 0, 0, NULL, "FILE", "base model (GGUF); required"},
    {"model-name", OT_OPTION_STRING, AT(server.model_name), 0, 0, NULL, "ID", "id in /v1/models (the file's name)"},
    {"head", OT_OPTION_HEAD, 0, 0, 0, NULL, "NAME=FILE", "insertion to load; repeatable, parents first"},
    {"reward-model", OT_OPTION_REWARD_MODEL, 0, 0, 0, NULL, "NAME=MODEL,HEAD",
     "separate model with its scalar head, used like a head; repeatable"},
    {"expert-model", OT_OPTION_EXPERT_MODEL, 0, 0, 0, NULL, "NAME=MODEL", "separate model used as an expert; repeatable"},
    {"draft-model", OT_OPTION_DRAFT_MODEL, 0, 0, 0, NULL, "MODEL", "small separate model that guesses ahead: the draft \"model\""},
    {"allow-base-mismatch", OT_OPTION_BOOL, AT(server.allow_base_mismatch), 0, 0, NULL, NULL,
     "load heads that were made for another base file"},
    {"chat-template", OT_OPTION_STRING, AT(server.chat_template), 0, 0, NULL, "NAME", "chat template by name (chatml, llama3 ...) or file (the model's own)"},
    {"presets", OT_OPTION_PRESETS, 0, 0, 0, NULL, NULL, "file only: a map of names to interventions"},
    {"speculative", OT_OPTION_STRING, AT(server.speculative), 0, 0, NULL, "NAMES",
     "drafts for requests that say nothing: lookup, a head, model, or lookup,NAME"},
    {"moderation-head", OT_OPTION_STRING, AT(server.moderation_head), 0, 0, NULL, "NAME", "head behind /v1/moderations"},
    {"moderation-threshold", OT_OPTION_FLOAT, AT(server.moderation_threshold), -1e6, 1e6, NULL, "X", "flagged above this score"},
    {"moderation-categories", OT_OPTION_MAP, AT(server.moderation_categories), 0, 0, NULL, NULL,
     "file only: a map of categories to heads, or to {head, above}"},
    {"host", OT_OPTION_STRING, AT(server.host), 0, 0, NULL, "ADDRESS", "to listen on"},
    {"port", OT_OPTION_PORT, AT(server.port), 0, 65535, NULL, "N", "to listen on; 0: any free one"},
    {"api-key-file", OT_OPTION_STRING, AT(server.api_key_file), 0, 0, NULL, "FILE", "keys that clients need, one a line"},
    {"cors-origins", OT_OPTION_LIST, AT(server.cors_origins), 0, 0, NULL, "A,B", "origins of browsers that may call; * for any"},
    {"allowed-hosts", OT_OPTION_LIST, AT(server.allowed_hosts), 0, 0, NULL, "A,B",
     "Host names besides localhost, if only some are answered (on a loopback address without keys); * for any"},
    {"heads-dir", OT_OPTION_STRING, AT(server.heads_dir), 0, 0, NULL, "DIR", "POST /v1/heads may load from here; else it is off"},
    {"ctx-size", OT_OPTION_U32, AT(scheduler.ctx_size), 0, 1 << 24, NULL, "N", "tokens of a sequence at most; 0: the model's"},
    {"kv-memory", OT_OPTION_BYTES, AT(scheduler.kv_memory_bytes), 1 << 20, 1e15, NULL, "BYTES", "for all keys and values (K, M, G)"},
    {"kv-type", OT_OPTION_WORD, AT(scheduler.kv_type), 0, 0, kv_words, "f16|f32", "type of keys and values"},
    {"threads", OT_OPTION_U32, AT(scheduler.n_threads), 0, 1024, NULL, "N", "of the engine; 0: as many as there are"},
    {"max-batch-tokens", OT_OPTION_U32, AT(scheduler.max_batch_tokens), OT_MAX_CANDIDATES, 65536, NULL, "N", "rows in a step"},
    {"max-sequences", OT_OPTION_U32, AT(scheduler.max_sequences), 1, 4096, NULL, "N", "choices running at once"},
    {"max-queue", OT_OPTION_U32, AT(scheduler.max_queue), 1, 1 << 20, NULL, "N", "waiting requests; past it 429"},
    {"output-ring", OT_OPTION_U32, AT(scheduler.output_ring), 1, 65536, NULL, "N", "tokens a choice may be ahead of its reader"},
    {"prefix-cache", OT_OPTION_BOOL, AT(scheduler.prefix_cache), 0, 0, NULL, NULL, "reuse pages of equal beginnings"},
    {"backend", OT_OPTION_BACKEND, 0, 0, 0, NULL, "cpu|cuda", "where to compute"},
    {"drain-delay", OT_OPTION_U32, AT(server.drain_delay_s), 0, 86400, NULL, "S",
     "seconds after SIGTERM in which work is still taken, while /readyz says 503"},
    {"drain-timeout", OT_OPTION_U32, AT(server.drain_timeout_s), 0, 86400, NULL, "S", "seconds for running requests after SIGTERM"},
    {"header-timeout", OT_OPTION_U32, AT(server.header_timeout_s), 1, 86400, NULL, "S", "seconds for a new connection's first headers"},
    {"idle-timeout", OT_OPTION_U32, AT(server.idle_timeout_s), 1, 86400, NULL, "S", "seconds from an answer to the next request's headers"},
    {"receive-timeout", OT_OPTION_U32, AT(server.receive_timeout_s), 1, 86400, NULL, "S", "seconds for receiving one body"},
    {"send-timeout", OT_OPTION_U32, AT(server.send_timeout_s), 1, 86400, NULL, "S", "seconds for a client to take a piece of its answer"},
    {"max-connections", OT_OPTION_U32, AT(server.max_connections), 1, 65536, NULL, "N", "open at once"},
    {"max-body", OT_OPTION_BYTES, AT(server.max_body_bytes), 1024, 1 << 30, NULL, "BYTES", "of one request"},
    {"max-bodies", OT_OPTION_BYTES, AT(server.max_bodies_bytes), 1024, 1e15, NULL, "BYTES", "of all requests being received"},
    {"request-memory", OT_OPTION_BYTES, AT(server.request_memory_bytes), 1 << 20, 1e15, NULL, "BYTES",
     "for all that requests and answers take besides keys and values; past it 503"},
    {"workers", OT_OPTION_U32, AT(server.n_workers), 1, 256, NULL, "N", "threads that parse, format and load what is large"},
    {"max-header", OT_OPTION_U32, AT(server.max_header_bytes), 4096, 1 << 24, NULL, "N", "bytes of one request's headers"},
    {"max-prompts", OT_OPTION_U32, AT(server.max_prompts), 1, 65536, NULL, "N", "in one request"},
    {"max-choices", OT_OPTION_U32, AT(server.max_choices), 1, 65536, NULL, "N", "largest `n`"},
    {"max-json-depth", OT_OPTION_U32, AT(server.max_json_depth), 8, 1024, NULL, "N", "nesting of a body"},
    {"grammar-memory", OT_OPTION_BYTES, AT(server.grammar_memory_bytes), 16 << 20, 1e15, NULL, "BYTES", "for grammars of structured output, kept or used"},
    {"access-log", OT_OPTION_WORD, AT(server.access_log), 0, 0, log_words, "off|plain|json", "a line for each request, to standard error"},
    {"log-file", OT_OPTION_STRING, AT(log_path), 0, 0, NULL, "FILE", "standard error goes there; SIGHUP opens it again"},
    {"config", OT_OPTION_CONFIG, 0, 0, 0, NULL, "FILE", "YAML with these names; a flag beats it"},
    {"help", OT_OPTION_HELP, 0, 0, 0, NULL, NULL, "this text"},
};
const size_t ot_option_count = sizeof ot_option_table / sizeof ot_option_table[0];

const ot_option *ot_option_find(const char *name)
{
    for (size_t i = 0; i < ot_option_count; i++)
        if (strcmp(ot_option_table[i].name, name) == 0)
            return &ot_option_table[i];
    return NULL;
}
