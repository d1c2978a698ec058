/* Settings from YAML and flags: every name in both, a flag beats the file, and errors with file, line and key. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/option-table.h"
#include "base/yaml-tree.h"
#include "config/yaml-json.h"
#include "tests/support/test-support.h"

static ot_status read_yaml(ot_config *c, const char *text, ot_error *err)
{
    const char *path = ot_test_temp_path("otter.yaml");
    ot_test_write_file(path, text, strlen(text));
    return ot_config_read_file(c, path, err);
}

static ot_config *open_config(void)
{
    ot_config *c = NULL;
    ot_error err = {0};
    CHECK_OK(ot_config_open(&c, &err), &err);
    return c;
}

static void reads_a_whole_file(void)
{
    ot_config *c = open_config();
    ot_error err = {0};
    REQUIRE_OK(read_yaml(c,
                         "# a comment\n"
                         "model: m.gguf\n"
                         "head:\n"
                         "  toxicity: heads/toxicity.gguf\n"
                         "  reward: heads/reward.gguf\n"
                         "host: \"::1\"\n"
                         "port: 9000\n"
                         "kv-memory: 512M\n"
                         "kv-type: f32\n"
                         "threads: 2\n"
                         "prefix-cache: false\n"
                         "moderation-threshold: 0.75\n"
                         "cors-origins: [https://a.example, https://b.example]\n"
                         "access-log: json\n"
                         "backend: cpu\n"
                         "moderation-categories: {violence: {head: policy/threat, above: 0.75}, hate: toxicity}\n"
                         "presets:\n"
                         "  kind: {reward: {heads: {toxicity: -4.0}, candidates: 10}, signals: [toxicity]}\n"
                         "  'quiet': {guard: {head: toxicity, above: .8}}\n",
                         &err),
               &err);
    CHECK_STR(c->model_path, "m.gguf");
    CHECK_INT(c->n_heads, 2);
    CHECK_STR(c->heads[0].name, "toxicity");
    CHECK_STR(c->heads[1].path, "heads/reward.gguf");
    CHECK_STR(c->server.host, "::1");
    CHECK_INT(c->server.port, 9000);
    CHECK_UINT(c->scheduler.kv_memory_bytes, (size_t)512 << 20);
    CHECK_INT(c->scheduler.kv_type, OT_KV_F32);
    CHECK_INT(c->scheduler.n_threads, 2);
    CHECK(!c->scheduler.prefix_cache);
    CHECK_NEAR(c->server.moderation_threshold, 0.75, 0);
    CHECK_STR(c->server.cors_origins[1], "https://b.example");
    CHECK(c->server.cors_origins[2] == NULL);
    CHECK_INT(c->server.access_log, OT_ACCESS_LOG_JSON);
    CHECK_INT(c->server.n_presets, 2);
    CHECK_STR(c->server.presets[0].name, "kind");
    CHECK_STR(c->server.presets[0].intervention, "{\"reward\":{\"heads\":{\"toxicity\":-4.0},\"candidates\":10},\"signals\":[\"toxicity\"]}");
    CHECK_STR(c->server.presets[1].intervention, "{\"guard\":{\"head\":\"toxicity\",\"above\":0.8}}");
    CHECK_STR(c->server.moderation_categories, "{\"violence\":{\"head\":\"policy/threat\",\"above\":0.75},\"hate\":\"toxicity\"}");
    CHECK_OK(ot_config_check(c, &err), &err);
    ot_config_close(&c);
}

static void lets_a_flag_beat_the_file(void)
{
    ot_config *c = open_config();
    ot_error err = {0};
    const char *path = ot_test_temp_path("beaten.yaml");
    const char *text = "model: file.gguf\nport: 1\nthreads: 3\nhead: {a: file-a, b: file-b}\ncors-origins: x,y\n";
    ot_test_write_file(path, text, strlen(text));
    char config[512];
    snprintf(config, sizeof config, "--config=%s", path);
    /* The file comes last here, and still loses. */
    char *argv[] = {"--port", "2", "--head", "b=flag-b", "--head=c=flag-c", "--cors-origins", "z", "--cors-origins", "w",
                    "--allow-base-mismatch", "--prefix-cache=false", config};
    REQUIRE_OK(ot_config_read_arguments(c, sizeof argv / sizeof argv[0], argv, &err), &err);
    CHECK_STR(c->model_path, "file.gguf");
    CHECK_INT(c->server.port, 2);
    CHECK_INT(c->scheduler.n_threads, 3);
    CHECK_INT(c->n_heads, 3);
    CHECK_STR(c->heads[0].path, "file-a");
    CHECK_STR(c->heads[1].path, "flag-b");
    CHECK_STR(c->heads[2].name, "c");
    CHECK_STR(c->server.cors_origins[0], "z");
    CHECK_STR(c->server.cors_origins[1], "w");
    CHECK(c->server.cors_origins[2] == NULL);
    CHECK(c->server.allow_base_mismatch);
    CHECK(!c->scheduler.prefix_cache);
    ot_config_close(&c);
}

static void names_separate_models(void)
{
    ot_config *c = open_config();
    ot_error err = {0};
    const char *path = ot_test_temp_path("models.yaml");
    const char *text = "reward-model: {kind: 'a,b.gguf,kind-head.gguf'}\nexpert-model: [n=one=1.gguf, p=two.gguf]\ndraft-model: d.gguf\n";
    ot_test_write_file(path, text, strlen(text));
    char config[512];
    snprintf(config, sizeof config, "--config=%s", path);
    char *argv[] = {"--model", "m", "--expert-model", "p=flag.gguf", "--draft-model", "other.gguf", config};
    REQUIRE_OK(ot_config_read_arguments(c, sizeof argv / sizeof argv[0], argv, &err), &err);
    static const ot_model_spec wanted[] = {
        {OT_ROLE_REWARD_MODEL, NULL, "kind", "a,b.gguf", "kind-head.gguf"},
        {OT_ROLE_EXPERT_MODEL, NULL, "n", "one=1.gguf", NULL},
        {OT_ROLE_EXPERT_MODEL, NULL, "p", "flag.gguf", NULL},
        {OT_ROLE_DRAFT_MODEL, NULL, "model", "other.gguf", NULL},
    };
    REQUIRE(CHECK_INT(c->n_models, 4));
    for (int i = 0; i < 4; i++) {
        CHECK_INT(c->models[i].role, wanted[i].role);
        CHECK_STR(c->models[i].name, wanted[i].name);
        CHECK_STR(c->models[i].model_path, wanted[i].model_path);
        CHECK_STR(c->models[i].head_path != NULL ? c->models[i].head_path : "none",
                  wanted[i].head_path != NULL ? wanted[i].head_path : "none");
    }
    ot_config_close(&c);
}

static void names_file_line_and_key(void)
{
    static const struct {
        const char *text, *param, *part;
    } rows[] = {
        {"model: m\nprot: 80\n", "prot", ":2: prot: no such setting"},
        {"port: 80\nport: 81\n", "port", ":2: 'port' is there twice"},
        {"\n\nport: many\n", "port", ":3: port: expected an integer from 0 to 65535, got 'many'"},
        {"port: 65536\n", "port", ":1: port: expected an integer from 0 to 65535, got '65536'"},
        {"port: 80.5\n", "port", "an integer"},
        {"port: -1\n", "port", "from 0 to 65535"},
        {"port: [80]\n", "port", "expected one value"},
        {"kv-memory: 5Q\n", "kv-memory", "got '5Q'"},
        {"kv-memory: 5\n", "kv-memory", "expected 1048576 to"},
        {"prefix-cache: maybe\n", "prefix-cache", "expected true or false"},
        {"kv-type: f8\n", "kv-type", "expected f16 or f32, got 'f8'"},
        {"moderation-threshold: high\n", "moderation-threshold", "expected a number"},
        {"moderation-threshold: nan\n", "moderation-threshold", "expected a number"},
        {"head: nothing\n", "head", "not NAME=FILE"},
        {"head: {'a b': x}\n", "head", "not NAME=FILE"},
        {"head: {a: [x]}\n", "head", "a file name"},
        {"backend: cuda\n", "backend", "no CUDA"},
        {"reward-model: a=b\n", "reward-model", "'a=b' is not NAME=MODEL,HEAD"},
        {"reward-model: {a: b}\n", "reward-model", "'a=b' is not NAME=MODEL,HEAD"},
        {"expert-model: b\n", "expert-model", "'b' is not NAME=MODEL"},
        {"draft-model: ''\n", "draft-model", "'' is not MODEL"},
        {"presets: 5\n", "presets", "expected a map"},
        {"presets: {a: 5}\n", "presets", "an intervention"},
        {"moderation-categories: toxicity\n", "moderation-categories", "expected a map"},
        {"config: other.yaml\n", "config", "no such setting"},
        {"- model\n", "", "must be a map"},
        {"model: [\n", "", ":2:"},
        {"port: &x 1\nthreads: *x\n", "", ":2: aliases"},
        {"presets: {a: &x {signals: [t]}, b: *x}\n", "", "aliases"},
        {"model: a\n---\nmodel: b\n", "", "second document"},
        {"? [a]\n: b\n", "", "a key must be a plain name"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ot_config *c = open_config();
        ot_error err = {0};
        ot_test_context("%s", rows[i].text);
        CHECK(read_yaml(c, rows[i].text, &err) != OT_OK);
        CHECK_STR(err.param, rows[i].param);
        CHECK_CONTAINS(err.message, "otter.yaml");
        CHECK_CONTAINS(err.message, rows[i].part);
        ot_config_close(&c);
    }
    ot_test_context(NULL);
}

static void names_the_flag(void)
{
    static const struct {
        char *argv[3];
        const char *part;
    } rows[] = {
        {{"--prot", "80", NULL}, "--prot: no such flag"},
        {{"--port", NULL, NULL}, "--port: a value is missing"},
        {{"--port", "x", NULL}, "--port: expected an integer from 0 to 65535, got 'x'"},
        {{"--presets", "x", NULL}, "--presets: no such flag"},
        {{"model.gguf", NULL, NULL}, "got 'model.gguf'"},
        {{"-m", NULL, NULL}, "got '-m'"},
        {{"--backend", "cuda", NULL}, "--backend: this build has no CUDA"},
        {{"--backend=tpu", NULL, NULL}, "expected cpu or cuda"},
        {{"--expert-model", "a=", NULL}, "--expert-model: 'a=' is not NAME=MODEL"},
        {{"--reward-model", "a=b,", NULL}, "--reward-model: 'a=b,' is not NAME=MODEL,HEAD"},
        {{"--config", "/nonexistent/otter.yaml", NULL}, "/nonexistent/otter.yaml: No such file"},
        {{"--prefix-cache=no", NULL, NULL}, "expected true or false"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ot_config *c = open_config();
        ot_error err = {0};
        int n = 0;
        while (rows[i].argv[n])
            n++;
        ot_test_context("%s", rows[i].argv[0]);
        CHECK(ot_config_read_arguments(c, n, (char **)rows[i].argv, &err) != OT_OK);
        CHECK_CONTAINS(err.message, rows[i].part);
        ot_config_close(&c);
    }
    ot_test_context(NULL);
    ot_config *c = open_config();
    ot_error err = {0};
    CHECK_STATUS(ot_config_check(c, &err), OT_ERR_INVALID, &err);
    CHECK_STR(err.param, "model");
    ot_config_close(&c);
}

static void reads_sizes(void)
{
    static const struct {
        const char *text;
        size_t bytes; /* 0: refused */
    } rows[] = {{"1024", 1024}, {"2K", 2048}, {"1.5k", 1536}, {"3M", 3u << 20}, {"4G", (size_t)4 << 30}, {"1GiB", 1u << 30},
                {"", 0}, {"K", 0}, {"-1", 0}, {"1e3", 0}, {"0x10", 0}, {"1T", 0}, {"5 M", 0}, {"inf", 0}, {"99999999999G", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t bytes = 0;
        ot_error err = {0};
        ot_test_context("'%s'", rows[i].text);
        ot_status status = ot_config_parse_bytes(rows[i].text, &bytes, &err);
        CHECK_INT(status == OT_OK, rows[i].bytes != 0);
        CHECK_UINT(bytes, rows[i].bytes);
    }
    ot_test_context(NULL);
}

/* Every setting but the two that are flags only can be written in a file by its name. */
static void knows_each_name_in_both(void)
{
    for (size_t i = 0; i < ot_option_count; i++) {
        const ot_option *o = &ot_option_table[i];
        ot_test_context("%s", o->name);
        CHECK(ot_option_find(o->name) == o);
        CHECK(o->help != NULL && strchr(o->name, '_') == NULL);
        if (o->kind == OT_OPTION_CONFIG || o->kind == OT_OPTION_HELP)
            continue;
        ot_config *c = open_config();
        ot_error err = {0};
        char text[128];
        snprintf(text, sizeof text, "%s: {deeper: {than: expected}}\n", o->name);
        read_yaml(c, text, &err);
        CHECK(strstr(err.message, "no such setting") == NULL);
        ot_config_close(&c);
    }
    ot_test_context(NULL);
}

static void turns_yaml_into_json(void)
{
    static const struct {
        const char *yaml, *json;
    } rows[] = {
        {"", "{}"},
        {"a: 1", "{\"a\":1}"},
        {"[1, -2, +3, 0.5, .5, 1e3, true, False, null, ~, yes, \"1\", '', 1x, 0x10, nan, .inf, -]",
         "[1,-2,3,0.5,0.5,1000.0,true,false,null,null,\"yes\",\"1\",\"\",\"1x\",\"0x10\",\"nan\",\".inf\",\"-\"]"},
        {"a: |\n  two\n  lines\nb: >-\n  one\n  line\n", "{\"a\":\"two\\nlines\\n\",\"b\":\"one line\"}"},
        {"a: {b: [{c: d}, [e]]}", "{\"a\":{\"b\":[{\"c\":\"d\"},[\"e\"]]}}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *json = NULL;
        ot_error err = {0};
        ot_test_context("%s", rows[i].yaml);
        CHECK_OK(ot_config_yaml_to_json(rows[i].yaml, strlen(rows[i].yaml), "text", &json, &err), &err);
        CHECK_STR(json ? json : "", rows[i].json);
        free(json);
    }
    ot_test_context(NULL);
    char deep[200];
    memset(deep, '[', sizeof deep);
    char *json = NULL;
    ot_error err = {0};
    CHECK_STATUS(ot_config_yaml_to_json(deep, sizeof deep, "deep", &json, &err), OT_ERR_FORMAT, &err);
}

/* Whatever a file holds, it is read or refused. */
static void survives_damaged_files(void)
{
    static const char text[] = "model: m.gguf\nhead: {a: b, c: d}\nport: 80\ncors-origins: [x, \"y\"]\npresets: {p: {signals: [a]}}\n";
    ot_test_rng rng = {ot_test_seed(3)};
    for (int round = 0; round < 3000; round++) {
        char damaged[sizeof text];
        memcpy(damaged, text, sizeof text);
        size_t n = sizeof text - 1;
        for (uint32_t i = 0; i < 1 + ot_test_rng_below(&rng, 4); i++)
            damaged[ot_test_rng_below(&rng, (uint32_t)n)] = (char)ot_test_rng_below(&rng, 256);
        if (ot_test_rng_below(&rng, 4) == 0)
            n = ot_test_rng_below(&rng, (uint32_t)n);
        ot_yaml *tree = NULL;
        ot_error err = {0};
        ot_status status = ot_yaml_parse(&tree, damaged, n, "damaged", &err);
        CHECK((status == OT_OK) == (tree != NULL));
        if (tree)
            json_decref(ot_yaml_to_json(tree));
        ot_yaml_close(&tree);
    }
}

static void ships_examples_that_load(void)
{
    static const char *const files[] = {"config/otter.yaml", "config/otter-presets.yaml"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        ot_config *c = open_config();
        ot_error err = {0};
        ot_test_context("%s", files[i]);
        CHECK_OK(ot_config_read_file(c, files[i], &err), &err);
        CHECK_OK(ot_config_check(c, &err), &err);
        ot_config_close(&c);
    }
    ot_test_context(NULL);
}

static void tells_defaults(void)
{
    static const struct {
        const char *name, *value;
    } rows[] = {{"port", "8080"},       {"host", "127.0.0.1"},  {"kv-memory", "1G"},   {"kv-type", "f16"},          {"prefix-cache", "true"},
                {"access-log", "off"}, {"max-body", "16M"},   {"threads", "0"},      {"moderation-threshold", "0.5"}, {"backend", "cpu"},
                {"model", ""},         {"head", ""},          {"config", ""}};
    ot_config *c = open_config();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char value[64];
        ot_config_describe_default(c, ot_option_find(rows[i].name), value, sizeof value);
        ot_test_context("%s", rows[i].name);
        CHECK_STR(value, rows[i].value);
    }
    ot_test_context(NULL);
    ot_config_close(&c);
    char *help = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&help, &size);
    REQUIRE(to != NULL);
    ot_config_print_help(to);
    fclose(to);
    CHECK_CONTAINS(help, "waiting requests; past it 429 [256]\n");
    CHECK_CONTAINS(help, "base model (GGUF); required\n");
    free(help);
}

int main(int argc, char **argv)
{
    ot_test_start(argc, argv);
    RUN(reads_a_whole_file);
    RUN(lets_a_flag_beat_the_file);
    RUN(names_separate_models);
    RUN(names_file_line_and_key);
    RUN(names_the_flag);
    RUN(reads_sizes);
    RUN(knows_each_name_in_both);
    RUN(turns_yaml_into_json);
    RUN(survives_damaged_files);
    RUN(tells_defaults);
    RUN(ships_examples_that_load);
    return ot_test_finish();
}
