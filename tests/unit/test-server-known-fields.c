/* What becomes of a field: done, taken under another name, taken as a hint, refused by name, told as a slip of the pen, or ignored. */
#include <string.h>

#include "server/known-fields.h"
#include "tests/support/test-support.h"

static ot_status check(const char *text, ot_field_route route, ot_error *err)
{
    json_t *o = json_loads(text, 0, NULL);
    if (!CHECK(o != NULL))
        return OT_ERR_FORMAT;
    memset(err, 0, sizeof *err);
    ot_status status = ot_check_known_fields((ot_fields){o, ""}, route, err);
    json_decref(o);
    return status;
}

static void names_each_row_once(void)
{
    const ot_known_field *row, *other;
    for (size_t i = 0; (row = ot_known_field_at(i)) != NULL; i++) {
        ot_test_context("%s", row->name);
        CHECK(row->routes != 0);
        for (size_t j = 0; j < i && (other = ot_known_field_at(j)) != NULL; j++)
            CHECK(strcmp(row->name, other->name) != 0 || (row->routes & other->routes) == 0);
        bool leads_on = row->fate != OT_FIELD_SYNONYM;
        for (size_t j = 0; row->instead && (other = ot_known_field_at(j)) != NULL; j++)
            leads_on |= other->fate == OT_FIELD_DONE && strcmp(other->name, row->instead) == 0;
        CHECK(leads_on);
    }
    ot_test_context(NULL);
}

static void does_or_refuses(void)
{
    static const struct {
        const char *text;
        ot_field_route route;
        ot_status status;
        const char *param, *message; /* NULL: taken */
    } rows[] = {
        {"{\"prompt\": \"a\", \"temperature\": 1, \"nobody_knows_this\": {\"x\": 1}}", OT_ON_COMPLETIONS, OT_OK, NULL, NULL},
        {"{\"user\": \"me\", \"metadata\": {}, \"store\": true, \"service_tier\": \"auto\", \"prediction\": {\"type\": \"content\"}}", OT_ON_CHAT,
         OT_OK, NULL, NULL},
        {"{\"user\": 5}", OT_ON_CHAT, OT_ERR_INVALID, "user", "must be a string, not an integer"},
        {"{\"mirostat\": 0, \"mirostat_tau\": 5.0, \"typical_p\": 1.0, \"top_n_sigma\": -1.0, \"json_schema\": {}, \"grammar\": \"\"}", OT_ON_CHAT, OT_OK,
         NULL, NULL},
        {"{\"mirostat\": 2}", OT_ON_COMPLETIONS, OT_ERR_UNSUPPORTED, "mirostat", "not supported"},
        {"{\"typical_p\": 0.1}", OT_ON_CHAT, OT_ERR_UNSUPPORTED, "typical_p", "not supported"},
        {"{\"min_new_tokens\": 5}", OT_ON_CHAT, OT_ERR_UNSUPPORTED, "min_new_tokens", "see 'min_tokens'"},
        {"{\"mirostat\": null}", OT_ON_CHAT, OT_OK, NULL, NULL},
        {"{\"cache_salt\": \"x\"}", OT_ON_CHAT, OT_ERR_UNSUPPORTED, "cache_salt", "not supported"},
        {"{\"n_predict\": 5}", OT_ON_CHAT, OT_OK, NULL, NULL},
        {"{\"n_predict\": 5, \"max_tokens\": 5}", OT_ON_CHAT, OT_OK, NULL, NULL},
        {"{\"n_predict\": 5, \"max_tokens\": 6}", OT_ON_CHAT, OT_ERR_INVALID, "n_predict", "another name for 'max_tokens'"},
        {"{\"max_token\": 5}", OT_ON_CHAT, OT_ERR_INVALID, "max_token", "is 'max_tokens' meant?"},
        {"{\"max_tokesn\": 5}", OT_ON_CHAT, OT_ERR_INVALID, "max_tokesn", "is 'max_tokens' meant?"},
        {"{\"temparature\": 0}", OT_ON_CHAT, OT_ERR_INVALID, "temparature", "is 'temperature' meant?"},
        {"{\"topP\": 0.5}", OT_ON_CHAT, OT_ERR_INVALID, "topP", "is 'top_p' meant?"},
        {"{\"max-tokens\": 5}", OT_ON_COMPLETIONS, OT_ERR_INVALID, "max-tokens", "is 'max_tokens' meant?"},
        {"{\"max_token\": null}", OT_ON_CHAT, OT_OK, NULL, NULL},
        {"{\"mode\": \"instruct\", \"top_l\": 5, \"stops\": 1, \"models\": [\"a\"]}", OT_ON_CHAT, OT_OK, NULL, NULL},
        {"{\"top_logprobs\": 3}", OT_ON_COMPLETIONS, OT_ERR_UNSUPPORTED, "top_logprobs", "see 'logprobs'"},
        {"{\"messages\": []}", OT_ON_COMPLETIONS, OT_ERR_UNSUPPORTED, "messages", "see 'prompt'"},
        {"{\"temperature\": 0.5, \"mirostat\": 2}", OT_ON_SCORE, OT_OK, NULL, NULL},
        {"{\"per_tokens\": true}", OT_ON_SCORE, OT_ERR_INVALID, "per_tokens", "is 'per_token' meant?"},
        {"{\"truncate_prompt_tokens\": 5}", OT_ON_SCORE, OT_ERR_UNSUPPORTED, "truncate_prompt_tokens", "not supported"},
        {"{\"file\": \"x\"}", OT_ON_LOAD_HEAD, OT_OK, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ot_error err;
        ot_test_context("%s", rows[i].text);
        CHECK_STATUS(check(rows[i].text, rows[i].route, &err), rows[i].status, &err);
        if (rows[i].param) {
            CHECK_STR(err.param, rows[i].param);
            CHECK_CONTAINS(err.message, rows[i].message);
        }
    }
    ot_test_context(NULL);
}

static void finds_a_field_by_its_other_name(void)
{
    json_t *o = json_loads("{\"max_new_tokens\": 3, \"repeat_penalty\": null, \"temperature\": 1}", 0, NULL);
    ot_fields f = {o, ""};
    CHECK_STR(ot_field_given(f, "max_tokens"), "max_new_tokens");
    CHECK_STR(ot_field_given(f, "repetition_penalty"), "repetition_penalty");
    CHECK_STR(ot_field_given(f, "temperature"), "temperature");
    json_decref(o);
}

static void names_members_of_members(void)
{
    json_t *o = json_loads("{\"include_usage\": true, \"continuous_usage_stats\": true}", 0, NULL);
    ot_error err = {0};
    CHECK_STATUS(ot_check_known_fields((ot_fields){o, "stream_options"}, OT_ON_CHAT, &err), OT_ERR_UNSUPPORTED, &err);
    CHECK_STR(err.param, "stream_options.continuous_usage_stats");
    json_decref(o);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(names_each_row_once);
    RUN(does_or_refuses);
    RUN(finds_a_field_by_its_other_name);
    RUN(names_members_of_members);
    return ot_test_finish();
}
