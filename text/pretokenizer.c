/* Pre-tokenizers by name. One is a sequence of stages, each a rule that stands for a regular expression: a stage cuts every
 * piece that it is given into its matches and what lies between them, and hands these on to the next stage; what the
 * last stage yields are the words. This is how tokenizer.json's Sequence of isolating Splits works, and llama.cpp's
 * lists of expressions. Pieces are handed down by recursion (one level a stage), so nothing is stored.
 *
 * Source of the names and of which expressions they stand for: llama.cpp, src/llama-vocab.cpp, and the tokenizer.json
 * files of the models. Where llama.cpp has to approximate a class (GPT-4o, tekken), the model's own expression is
 * followed. */
#include "text/pretokenizer.h"

#include "text/pretokenizer-rules.h"
#include "text/unicode.h"

#include <string.h>

#define MAX_STAGES 6

typedef struct stage {
    ot_rule_fn rule; /* NULL after the last */
    unsigned options;
} stage;

struct ot_pretokenizer {
    const char *names; /* each followed by a space */
    stage stages[MAX_STAGES + 1];
    bool ignores_merges, adds_bos;
};

static const ot_pretokenizer pretokenizers[] = {
    {"gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 modern-bert jina-es jina-de jina-v2-es jina-v2-de "
     "gigachat a.x-4.0 mellum ",
     {{ot_rule_gpt2, 0}}, false, false},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ",
     {{ot_rule_numbers, 1}, {ot_rule_gpt2, 0}}, false, false},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ", {{ot_rule_words, 0}}, true, true},
    {"dbrx smaug-bpe glm4 chatglm-bpe ", {{ot_rule_words, 0}}, false, false},
    {"qwen2 deepseek-r1-qwen megrez kormo f2llmv2 stablelm2 hunyuan solar-open grok-2 bailingmoe bailingmoe2 llada-moe ",
     {{ot_rule_words, OT_WORD_ONE_DIGIT}}, false, false},
    {"qwen35 ", {{ot_rule_words, OT_WORD_ONE_DIGIT | OT_WORD_MARKS}}, false, false},
    {"seed-coder ", {{ot_rule_words, OT_WORD_ONE_DIGIT | OT_WORD_NO_TAIL}}, false, false},
    {"ufakzeka ", {{ot_rule_words, OT_WORD_ONE_DIGIT | OT_WORD_NO_CONTRACTION}}, false, false},
    {"laguna ", {{ot_rule_lines, 0}, {ot_rule_words, OT_WORD_ONE_DIGIT}}, false, false},
    {"minicpm5 ", {{ot_rule_numbers, 3}, {ot_rule_words, OT_WORD_ANY_DIGITS}}, true, false},
    {"gpt-4o llama4 kanana2 talkie minimax-m2 ", {{ot_rule_words, OT_WORD_CASED | OT_WORD_SLASH_TAIL}}, false, false},
    {"granite-embed-multi-97m ", {{ot_rule_words, OT_WORD_CASED | OT_WORD_SLASH_TAIL}}, true, false},
    {"tekken ",
     {{ot_rule_words, OT_WORD_CASED | OT_WORD_SLASH_TAIL | OT_WORD_ONE_DIGIT | OT_WORD_NO_CONTRACTION}}, true, true},
    {"deepseek-llm ",
     {{ot_rule_line_break, 0}, {ot_rule_deepseek_letters, 0}, {ot_rule_deepseek_punctuation, 0},
      {ot_rule_final_space, 0}, {ot_rule_deepseek_cjk, 0}, {ot_rule_numbers, 0}},
     false, false},
    {"deepseek-coder ",
     {{ot_rule_line_break, 0}, {ot_rule_space_class, OT_CLASS_LETTER}, {ot_rule_space_class, OT_CLASS_PUNCT},
      {ot_rule_deepseek_cjk, 0}, {ot_rule_numbers, 1}},
     false, false},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4 ",
     {{ot_rule_numbers, 3}, {ot_rule_deepseek_cjk, 1}, {ot_rule_deepseek3, 0}}, false, false},
    {"falcon ", {{ot_rule_punctuation, 1}, {ot_rule_gpt2, 0}, {ot_rule_three_digits, 0}}, false, false},
    {"poro-chat bloom gpt3-finnish ", {{ot_rule_bloom, 0}}, false, false},
    {"viking ", {{ot_rule_bloom, 0}, {ot_rule_numbers, 1}}, false, false},
    {"default ",
     {{ot_rule_punctuation, 0}, {ot_rule_gpt2, 0}, {ot_rule_numbers, 0}, {ot_rule_three_digits, 0}}, false, false},
};

const ot_pretokenizer *ot_pretokenizer_find(const char *name, size_t size)
{
    if (size == 0) {
        name = "default";
        size = strlen(name);
    }
    for (size_t i = 0; i < sizeof pretokenizers / sizeof pretokenizers[0]; i++) {
        for (const char *at = pretokenizers[i].names, *space; *at != '\0'; at = space + 1) {
            space = strchr(at, ' ');
            if ((size_t)(space - at) == size && memcmp(at, name, size) == 0)
                return &pretokenizers[i];
        }
    }
    return NULL;
}

bool ot_pretokenizer_ignores_merges(const ot_pretokenizer *p)
{
    return p->ignores_merges;
}

bool ot_pretokenizer_adds_bos(const ot_pretokenizer *p)
{
    return p->adds_bos;
}

typedef struct sink {
    ot_word_fn word;
    void *context;
} sink;

static bool run_stage(const stage *s, const char *text, size_t size, const sink *out)
{
    if (size == 0)
        return true;
    if (s->rule == NULL)
        return out->word(out->context, text, size);
    ot_piece piece = {text, size};
    size_t gap = 0; /* where the text that no match has taken begins */
    for (size_t at = 0, end; at < size; at = end) {
        if (!s->rule(&piece, at, s->options, &end))
            continue;
        if (!run_stage(s + 1, text + gap, at - gap, out) || !run_stage(s + 1, text + at, end - at, out))
            return false;
        gap = end;
    }
    return run_stage(s + 1, text + gap, size - gap, out);
}

bool ot_pretokenize(const ot_pretokenizer *p, const char *text, size_t size, ot_word_fn word, void *context)
{
    sink out = {word, context};
    return run_stage(p->stages, text, size, &out);
}
