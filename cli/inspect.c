/* `otter inspect`: what is in a GGUF file, for people or as JSON.
 *
 * Both forms follow one order: the file, then (for an insertion) its sizes, heads, base and training record, then keys, tensors, totals
 * and the fingerprint. Any file that ot_gguf_open takes can be listed, also with tensor types that the engine cannot compute
 * with: those are marked. Texts come from the file and go to a terminal, so they are printed in the escaped form of ot_gguf_key_text. */
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/inspect-block.h"

#include "gguf/gguf.h"
#include "text/chat-template.h"

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMAND "inspect"
#define TRAINING "otter.training."
#define LINE_BYTES 100   /* of a value in a line of the listing */
#define NAME_BYTES 256
#define MAX_TYPES 64     /* tensor types are numbered below this */
#define JSON_ELEMENTS 16 /* of an array: vocabularies have 100,000s */

typedef struct options {
    const char *path;
    bool json, block, help;
} options;

static void print_usage(FILE *to)
{
    fprintf(to,
            "Usage: otter inspect [OPTION]... FILE\n\n"
            "Lists what is in a GGUF file: keys, tensors with type, shape and size, totals, and the fingerprint that ties an\n"
            "insertion to its base. Of an insertion, first its sizes, heads, labels and training record.\n\n"
            "  --json   as one JSON object (arrays are cut to their first %d elements)\n"
            "  --block  of a base model, instead: the operations of a layer and the tensors that they use\n"
            "  --help   print this\n\n"
            "Exit status: 0 done, 1 failed, 2 wrong usage.\n",
            JSON_ELEMENTS);
}

/* 0, or the exit status of wrong usage. */
static int parse_options(int argc, char **argv, options *o)
{
    static const struct option table[] = {
        {"json", no_argument, NULL, 'j'}, {"block", no_argument, NULL, 'b'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    optind = 0;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "jbh", table, NULL)) != -1;) {
        switch (c) {
        case 'j': o->json = true; break;
        case 'b': o->block = true; break;
        case 'h': o->help = true; return 0;
        default: return ot_cli_wrong_usage(COMMAND, "unknown option ", argv[optind - 1]);
        }
    }
    if (optind == argc)
        return ot_cli_wrong_usage(COMMAND, "no file is named", "");
    if (optind + 1 < argc)
        return ot_cli_wrong_usage(COMMAND, "more than one file: ", argv[optind + 1]);
    o->path = argv[optind];
    return 0;
}

/* ---- What both forms need ---- */

static const char *value_type(ot_gguf_type type)
{
    static const char *const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64",
                                        "i64", "f64"};
    return (size_t)type < sizeof names / sizeof names[0] ? names[type] : "?";
}

/* Position of a key in the file, or the count of keys. */
static uint64_t key_position(const ot_gguf *g, const char *key)
{
    const size_t size = strlen(key);
    uint64_t i = 0;
    for (; i < ot_gguf_key_count(g); i++) {
        const ot_str name = ot_gguf_key_name(g, i, NULL);
        if (name.size == size && memcmp(name.data, key, size) == 0)
            break;
    }
    return i;
}

/* The value of a key as text, "-" if it is missing. */
static const char *key_text(const ot_gguf *g, const char *key, char *dst, size_t size)
{
    const uint64_t i = key_position(g, key);
    if (i == ot_gguf_key_count(g))
        snprintf(dst, size, "-");
    else
        ot_gguf_key_text(g, i, dst, size);
    return dst;
}

static bool is_insertion(const ot_gguf *g)
{
    ot_str architecture;
    return ot_gguf_get_str(g, "general.architecture", &architecture, NULL) == OT_OK && architecture.size == 5 &&
           memcmp(architecture.data, "otter", 5) == 0;
}

static bool is_training_key(ot_str name)
{
    return name.size >= strlen(TRAINING) && memcmp(name.data, TRAINING, strlen(TRAINING)) == 0;
}

static uint64_t elements(const ot_tensor *t)
{
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
}

typedef struct totals {
    uint64_t n_tensors, n_elements, bytes;
} totals;

/* Of the tensors of one type, or of all. */
static totals sum_up(const ot_gguf *g, bool all, ot_type type)
{
    totals sum = {0, 0, 0};
    for (uint64_t i = 0; i < ot_gguf_tensor_count(g); i++) {
        const ot_tensor *t = ot_gguf_tensor_at(g, i);
        if (all || t->type == type) {
            sum.n_tensors++;
            sum.n_elements += elements(t);
            sum.bytes += t->bytes;
        }
    }
    return sum;
}

/* Names may hold any byte but ASCII's control characters: what is not ASCII is shown as '?'. Returns dst. */
static char *plain_name(ot_str name, char dst[NAME_BYTES])
{
    size_t n = 0;
    for (; n < name.size && n + 1 < NAME_BYTES; n++)
        dst[n] = (unsigned char)name.data[n] < 0x80 ? name.data[n] : '?';
    dst[n] = 0;
    return dst;
}

/* ---- For people ---- */

static void print_insertion(const ot_gguf *g)
{
    char a[256], b[256], c[256], d[256];
    printf("\nInsertion\n");
    printf("  sizes     d' %s, f' %s, %s new heads on %s key/value heads\n", key_text(g, "otter.embedding_length", a, sizeof a),
           key_text(g, "otter.feed_forward_length", b, sizeof b), key_text(g, "otter.attention.head_count", c, sizeof c),
           key_text(g, "otter.attention.head_count_kv", d, sizeof d));
    bool reads_tokens = false;
    ot_gguf_get_bool(g, "otter.head.reads_tokens", &reads_tokens, NULL);
    printf("  heads     %s %s reading %s%s, activation %s\n", key_text(g, "otter.head.count", a, sizeof a),
           key_text(g, "otter.head.kind", b, sizeof b), key_text(g, "otter.head.input", c, sizeof c),
           reads_tokens ? " and tokens" : "", key_text(g, "otter.head.activation", d, sizeof d));
    printf("  labels    %s\n", key_text(g, "otter.head.labels", a, sizeof a));
    printf("  offsets   %s\n", key_text(g, "otter.head.offsets", a, sizeof a));
    printf("  parents   %s\n", key_text(g, "otter.parents", a, sizeof a));
    printf("  base      %s (%s), width %s", key_text(g, "otter.base.name", a, sizeof a),
           key_text(g, "otter.base.architecture", b, sizeof b), key_text(g, "otter.base.embedding_length", c, sizeof c));
    printf(", %s layers, vocabulary %s\n", key_text(g, "otter.base.block_count", a, sizeof a),
           key_text(g, "otter.base.vocab_size", b, sizeof b));
    printf("            fingerprint %s\n", key_text(g, "otter.base.fingerprint", a, sizeof a));

    bool any = false;
    for (uint64_t i = 0; i < ot_gguf_key_count(g); i++) {
        const ot_str name = ot_gguf_key_name(g, i, NULL);
        char text[1024], plain[NAME_BYTES];
        if (!is_training_key(name))
            continue;
        if (!any)
            printf("\nTraining\n");
        any = true;
        printf("  %-28s %s\n", plain_name(name, plain) + strlen(TRAINING), ot_gguf_key_text(g, i, text, sizeof text));
    }
    if (!any)
        printf("\nTraining\n  no record\n");
}

static void print_keys(const ot_gguf *g)
{
    printf("\nKeys (%llu)\n", (unsigned long long)ot_gguf_key_count(g));
    for (uint64_t i = 0; i < ot_gguf_key_count(g); i++) {
        ot_gguf_type type;
        char text[LINE_BYTES], plain[NAME_BYTES];
        const ot_str name = ot_gguf_key_name(g, i, &type);
        const size_t written = strlen(ot_gguf_key_text(g, i, text, sizeof text));
        /* A character or an escape that does not fit leaves up to three bytes free. */
        printf("  %-42s %-6s %s%s\n", plain_name(name, plain), value_type(type), text, written + 4 >= sizeof text ? "..." : "");
    }
}

static void print_tensors(const ot_gguf *g)
{
    printf("\nTensors (%llu)\n", (unsigned long long)ot_gguf_tensor_count(g));
    for (uint64_t i = 0; i < ot_gguf_tensor_count(g); i++) {
        const ot_tensor *t = ot_gguf_tensor_at(g, i);
        char shape[96] = "[", plain[NAME_BYTES];
        for (uint32_t d = 0; d < t->n_dims; d++) {
            const size_t used = strlen(shape);
            snprintf(shape + used, sizeof shape - used, "%s%llu", d > 0 ? ", " : "", (unsigned long long)t->dims[d]);
        }
        printf("  %-36s %-7s %-18s %14zu bytes%s\n", plain_name(t->name, plain), ot_type_name(t->type), strcat(shape, "]"), t->bytes,
               ot_type_known((uint32_t)t->type) ? "" : "  (not a type that the engine computes with)");
    }
}

static void print_total(const char *name, totals sum)
{
    printf("  %-8s %5llu tensors %15llu elements %15llu bytes\n", name, (unsigned long long)sum.n_tensors,
           (unsigned long long)sum.n_elements, (unsigned long long)sum.bytes);
}

/* The file's chat template, opened; NULL and err.code 0: it has none. */
static ot_chat_template *open_chat(const ot_gguf *g, ot_error *err)
{
    ot_chat_template *t = NULL;
    ot_str source;
    *err = (ot_error){.message = ""};
    if (ot_gguf_get_str(g, "tokenizer.chat_template", &source, NULL) == OT_OK)
        ot_chat_template_parse(&t, source.data, source.size, err);
    return t;
}

static void print_chat(const ot_gguf *g)
{
    ot_error err;
    ot_chat_template *t = open_chat(g, &err);
    if (t != NULL) {
        const ot_chat_traits *has = ot_chat_template_traits(t);
        printf("  chat template: tools %s, calls %s, thoughts %s\n", has->tools ? "shown" : "not shown", has->tool_calls ? "shown" : "not shown",
               has->thinks ? "told apart" : "none");
    } else if (err.code != OT_OK) {
        printf("  chat is off: %s\n", err.message);
    }
    ot_chat_template_close(&t);
}

static void print_file(const ot_gguf *g, const char *fingerprint)
{
    char text[256];
    printf("%s\n", ot_gguf_path(g));
    printf("  GGUF version %u, %zu bytes\n", ot_gguf_version(g), ot_gguf_file_bytes(g));
    printf("  architecture %s", key_text(g, "general.architecture", text, sizeof text));
    printf(", name %s\n", key_text(g, "general.name", text, sizeof text));
    print_chat(g);
    if (is_insertion(g))
        print_insertion(g);
    print_keys(g);
    print_tensors(g);
    printf("\nTotals\n");
    for (uint32_t type = 0; type < MAX_TYPES; type++) {
        const totals sum = sum_up(g, false, (ot_type)type);
        if (sum.n_tensors > 0)
            print_total(ot_type_name((ot_type)type), sum);
    }
    print_total("all", sum_up(g, true, OT_TYPE_F32));
    printf("\nFingerprint of the tensors\n  %s\n", fingerprint);
}

/* ---- As JSON. A member that could not be allocated makes json_pack return NULL for the object around it ---- */

/* Of a text that is no UTF-8, bytes beyond ASCII come as '?'. */
static json_t *json_text(ot_str text)
{
    json_t *string = json_stringn(text.data, text.size);
    if (string != NULL)
        return string;
    char *replaced = malloc(text.size + 1);
    if (replaced == NULL)
        return NULL;
    for (size_t i = 0; i < text.size; i++)
        replaced[i] = (unsigned char)text.data[i] < 0x80 ? text.data[i] : '?';
    string = json_stringn(replaced, text.size);
    free(replaced);
    return string;
}

/* A number or boolean: its text is JSON but for NaN, infinities and numbers beyond 64 bits with sign, which stay texts. */
static json_t *json_scalar(const ot_gguf *g, uint64_t i)
{
    char text[64];
    ot_gguf_key_text(g, i, text, sizeof text);
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    return value != NULL ? value : json_string(text);
}

static json_t *json_array_value(const ot_gguf *g, const char *name)
{
    ot_gguf_array array;
    if (ot_gguf_get_array(g, name, &array, NULL) != OT_OK)
        return NULL;
    json_t *first = json_array();
    for (uint64_t i = 0; i < array.count && i < JSON_ELEMENTS; i++) {
        json_t *element = NULL;
        if (array.type == OT_GGUF_STRING)
            element = json_text(ot_gguf_array_str(&array, i));
        else if (array.type == OT_GGUF_F32 || array.type == OT_GGUF_F64)
            element = json_real(ot_gguf_array_num(&array, i));
        else if (array.type == OT_GGUF_BOOL)
            element = json_boolean(ot_gguf_array_int(&array, i) != 0);
        else
            element = json_integer(ot_gguf_array_int(&array, i));
        json_array_append_new(first, element != NULL ? element : json_null());
    }
    return json_pack("{s:s, s:I, s:o}", "element_type", value_type(array.type), "count", (json_int_t)array.count, "first", first);
}

static json_t *json_keys(const ot_gguf *g)
{
    json_t *keys = json_object();
    for (uint64_t i = 0; i < ot_gguf_key_count(g); i++) {
        ot_gguf_type type;
        char plain[NAME_BYTES];
        ot_str text;
        json_t *value = NULL;
        const ot_str name = ot_gguf_key_name(g, i, &type);
        char *key = strndup(name.data, name.size);
        if (key == NULL)
            continue;
        if (type == OT_GGUF_ARRAY)
            value = json_array_value(g, key);
        else if (type == OT_GGUF_STRING)
            value = ot_gguf_get_str(g, key, &text, NULL) == OT_OK ? json_text(text) : NULL;
        else
            value = json_scalar(g, i);
        json_object_set_new(keys, plain_name(name, plain),
                            json_pack("{s:s, s:o}", "type", value_type(type), "value", value != NULL ? value : json_null()));
        free(key);
    }
    return keys;
}

static json_t *json_tensors(const ot_gguf *g)
{
    json_t *tensors = json_array();
    for (uint64_t i = 0; i < ot_gguf_tensor_count(g); i++) {
        const ot_tensor *t = ot_gguf_tensor_at(g, i);
        char plain[NAME_BYTES];
        json_t *shape = json_array();
        for (uint32_t d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)t->dims[d]));
        json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:I}", "name", plain_name(t->name, plain), "type", ot_type_name(t->type),
                                                 "shape", shape, "bytes", (json_int_t)t->bytes));
    }
    return tensors;
}

static json_t *json_total(totals sum)
{
    return json_pack("{s:I, s:I, s:I}", "tensors", (json_int_t)sum.n_tensors, "elements", (json_int_t)sum.n_elements, "bytes",
                     (json_int_t)sum.bytes);
}

static json_t *json_totals(const ot_gguf *g)
{
    json_t *by_type = json_object();
    for (uint32_t type = 0; type < MAX_TYPES; type++) {
        const totals sum = sum_up(g, false, (ot_type)type);
        if (sum.n_tensors > 0)
            json_object_set_new(by_type, ot_type_name((ot_type)type), json_total(sum));
    }
    return json_pack("{s:o, s:o}", "all", json_total(sum_up(g, true, OT_TYPE_F32)), "by_type", by_type);
}

/* null for a file without a template. */
static json_t *json_chat(const ot_gguf *g)
{
    ot_error err;
    ot_chat_template *t = open_chat(g, &err);
    json_t *chat;
    if (t != NULL) {
        const ot_chat_traits *has = ot_chat_template_traits(t);
        chat = json_pack("{s:n, s:b, s:b, s:b}", "problem", "tools", (int)has->tools, "tool_calls", (int)has->tool_calls, "thoughts", (int)has->thinks);
    } else {
        const ot_str problem = {err.message, strlen(err.message)};
        chat = err.code != OT_OK ? json_pack("{s:o}", "problem", json_text(problem)) : json_null();
    }
    ot_chat_template_close(&t);
    return chat;
}

static int print_json(const ot_gguf *g, const char *fingerprint)
{
    const ot_str path = {ot_gguf_path(g), strlen(ot_gguf_path(g))};
    json_t *all = json_pack("{s:o, s:i, s:I, s:b, s:o, s:o, s:o, s:o, s:s}", "path", json_text(path), "version", (int)ot_gguf_version(g),
                            "bytes", (json_int_t)ot_gguf_file_bytes(g), "insertion", (int)is_insertion(g), "chat_template", json_chat(g), "keys", json_keys(g),
                            "tensors", json_tensors(g), "totals", json_totals(g), "fingerprint", fingerprint);
    const bool good = all != NULL && json_dumpf(all, stdout, JSON_INDENT(2)) == 0;
    json_decref(all);
    if (good)
        putchar('\n');
    else
        fprintf(stderr, "otter " COMMAND ": %s: the listing could not be made or written\n", ot_gguf_path(g));
    return good ? 0 : 1;
}

int ot_cli_inspect(int argc, char **argv)
{
    options o = {0};
    ot_gguf *g = NULL;
    ot_error err;
    char fingerprint[65];
    int exit_status = parse_options(argc, argv, &o);
    if (exit_status != 0)
        return exit_status;
    if (o.help) {
        print_usage(stdout);
        return 0;
    }
    if (ot_gguf_open(&g, o.path, &err) != OT_OK) {
        fprintf(stderr, "otter " COMMAND ": %s\n", err.message);
        return 1;
    }
    if (!o.block)
        ot_gguf_fingerprint(g, fingerprint);
    if (o.block)
        exit_status = ot_cli_print_block(g);
    else if (o.json)
        exit_status = print_json(g, fingerprint);
    else
        print_file(g, fingerprint);
    ot_gguf_close(&g);
    if (fflush(stdout) != 0 && exit_status == 0) {
        perror("otter " COMMAND ": standard output");
        exit_status = 1;
    }
    return exit_status;
}
