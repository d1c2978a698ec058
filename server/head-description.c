/* head-description.h. An expert or draft model has no insertion: it is shown as a generation head of no size on a model of its own, a
 * reward model as its scalar head and the model beneath. */
#include "server/head-description.h"

#include <string.h>

static const char *kind_name(ot_head_kind kind)
{
    switch (kind) {
    case OT_HEAD_SCALAR: return "scalar";
    case OT_HEAD_GENERATION: return "generation";
    case OT_HEAD_LOOKAHEAD: return "lookahead";
    }
    return "unknown";
}

static const char *activation_name(ot_activation activation)
{
    switch (activation) {
    case OT_ACT_SIGMOID: return "sigmoid";
    case OT_ACT_IDENTITY: return "identity";
    case OT_ACT_LINEAR: return "linear";
    case OT_ACT_SILU_RESIDUAL: return "silu_residual";
    }
    return "unknown";
}

static const char *role_name(ot_head_role role)
{
    switch (role) {
    case OT_ROLE_INSERTION: return "insertion";
    case OT_ROLE_REWARD_MODEL: return "reward_model";
    case OT_ROLE_EXPERT_MODEL: return "expert_model";
    case OT_ROLE_DRAFT_MODEL: return "draft_model";
    }
    return "unknown";
}

/* NULL for a separate model without a head. */
static const ot_insertion_info *insertion_of(const ot_head *head)
{
    const ot_insertion *insertion = ot_head_insertion(head);
    return insertion ? ot_insertion_get_info(insertion) : NULL;
}

void ot_head_describe(const ot_head *head, ot_head_description *out)
{
    const ot_insertion_info *info = insertion_of(head);
    const ot_model *model = ot_head_model(head);
    *out = (ot_head_description){.role = role_name(ot_head_get_role(head)), .kind = kind_name(OT_HEAD_GENERATION)};
    if (info) {
        out->kind = kind_name(info->spec.kind);
        out->parameters = info->n_params;
        out->bytes = info->bytes;
        out->kv_bytes_per_token = info->kv_bytes_per_token;
    }
    if (model) {
        const ot_model_info *m = ot_model_get_info(model);
        out->parameters += m->n_params;
        out->bytes += m->weight_bytes;
        out->kv_bytes_per_token += (size_t)m->n_kv_heads * m->head_dim * m->n_layers * 2 * 2; /* K and V, 16 bits each */
    }
}

static void put_outputs(const ot_insertion_spec *spec, ot_text *out)
{
    ot_json_begin_array(out, "labels");
    for (uint32_t i = 0; i < spec->n_outputs; i++)
        ot_json_string(out, NULL, spec->labels[i]);
    ot_json_end_array(out);
    ot_json_begin_array(out, "offsets");
    for (uint32_t i = 0; i < spec->n_outputs; i++)
        ot_json_uint(out, NULL, spec->offsets[i]);
    ot_json_end_array(out);
    ot_json_bool(out, "reads_tokens", spec->reads_tokens);
    ot_json_begin_array(out, "parents");
    for (uint32_t i = 0; i < spec->n_parents; i++)
        ot_json_string(out, NULL, spec->parents[i]);
    ot_json_end_array(out);
}

static void put_training(const ot_insertion_info *info, ot_text *out)
{
    ot_json_begin_object(out, "training");
    for (uint32_t i = 0; info && i < info->n_training; i++) {
        const char *key = info->training_keys[i];
        if (strncmp(key, "otter.training.", 15) == 0)
            key += 15;
        ot_json_string(out, key, info->training_values[i]);
    }
    ot_json_end_object(out);
}

static void put_model(const ot_model *model, ot_text *out)
{
    if (!model) {
        ot_json_null(out, "model");
        return;
    }
    const ot_model_info *m = ot_model_get_info(model);
    ot_json_begin_object(out, "model");
    ot_json_string(out, "name", m->name);
    ot_json_string(out, "architecture", m->architecture);
    ot_json_uint(out, "parameters", m->n_params);
    ot_json_uint(out, "bytes", m->weight_bytes);
    ot_json_string(out, "fingerprint", m->fingerprint);
    ot_json_end_object(out);
}

void ot_head_put(const ot_head *head, ot_text *out)
{
    static const ot_insertion_spec no_insertion = {.kind = OT_HEAD_GENERATION, .input = OT_INPUT_BASE, .activation = OT_ACT_LINEAR};
    const ot_insertion_info *info = insertion_of(head);
    const ot_insertion_spec *spec = info ? &info->spec : &no_insertion;
    ot_head_description d;
    ot_head_describe(head, &d);
    ot_json_begin_object(out, NULL);
    ot_json_string(out, "name", ot_head_name(head));
    ot_json_string(out, "object", "head");
    ot_json_string(out, "role", d.role);
    ot_json_string(out, "kind", d.kind);
    ot_json_string(out, "input", spec->input == OT_INPUT_BASE ? "base" : "extended");
    ot_json_string(out, "activation", activation_name(spec->activation));
    put_outputs(spec, out);
    ot_json_uint(out, "embedding_length", spec->n_embd);
    ot_json_uint(out, "feed_forward_length", spec->n_ff);
    ot_json_uint(out, "head_count", spec->n_heads);
    ot_json_uint(out, "head_count_kv", spec->n_kv_heads);
    ot_json_uint(out, "parameters", d.parameters);
    ot_json_uint(out, "bytes", d.bytes);
    ot_json_uint(out, "kv_bytes_per_token", d.kv_bytes_per_token);
    put_model(ot_head_model(head), out);
    put_training(info, out);
    ot_json_end_object(out);
}
