/* `otter init --init-from FILE --neutral-typography`: experts that steer by words and leave quotes, dashes and spaces to the base.
 *
 * A contrast between two kinds of texts amplifies their style, too: where one kind is typeset with typographic quotes, dashes and hard spaces and
 * the other is typed, experts learn to write these, and rows of them at a high alpha. What a head adds to the logit of token v is e_v . W_h H'
 * (eq. 8), so it adds nothing for tokens to whose e_v the columns of W_h are orthogonal. The embeddings of tokens with typographic characters,
 * less the mean embedding of all tokens (which moves all logits alike), lie close to each other: W_h loses what it has in the DIRECTIONS in which they are largest (their
 * first right singular vectors, by subspace iteration). The rest of what it says stays. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/loss/output-floats.h"
#include "train/train-internal.h"

#define DIRECTIONS 16
#define SWEEPS 60 /* far past what the quantised file can tell apart */

/* ---- Tokens ------------------------------------------------------------------------------------------------- */

static bool is_typographic(uint32_t c)
{
    static const struct { uint32_t first, last; } ranges[] = {
        {0xa0, 0xa0},     /* the hard space */
        {0xab, 0xab},     /* << */
        {0xad, 0xad},     /* the soft hyphen */
        {0xbb, 0xbb},     /* >> */
        {0x2000, 0x206f}, /* general punctuation: wide and thin spaces, hyphens, dashes, quotes, bullets, the ellipsis */
        {0x3000, 0x3000}, /* the ideographic space */
        {0xfeff, 0xfeff}, /* a byte order mark */
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (c >= ranges[i].first && c <= ranges[i].last)
            return true;
    return false;
}

/* The character at text[*at], which moves behind it; UINT32_MAX where the bytes are none. */
static uint32_t next_character(const unsigned char *text, size_t size, size_t *at)
{
    const unsigned char lead = text[(*at)++];
    const unsigned more = lead < 0x80 ? 0 : lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    uint32_t c = lead < 0x80 ? lead : lead & (0x3fu >> more);
    if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4 || size - *at < more)
        return UINT32_MAX;
    for (unsigned i = 0; i < more; i++, ++*at) {
        if ((text[*at] & 0xc0) != 0x80)
            return UINT32_MAX;
        c = c << 6 | (text[*at] & 0x3fu);
    }
    return c;
}

/* Pieces of characters are no typography: they belong to anything. */
static bool has_typography(ot_str token)
{
    bool found = false;
    for (size_t at = 0; at < token.size;) {
        const uint32_t c = next_character((const unsigned char *)token.data, token.size, &at);
        if (c == UINT32_MAX)
            return false;
        found |= is_typographic(c);
    }
    return found;
}

/* ---- Directions --------------------------------------------------------------------------------------------- */

typedef struct space {
    uint32_t d, n, k;   /* width, tokens, directions */
    float *rows;        /* (n, d) embeddings of the tokens less the mean, of length 1 */
    double *directions; /* (k, d) orthonormal */
    double *sums;       /* (k, d) */
} space;

static double dot(const double *a, const double *b, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Gram and Schmidt's. */
static void orthonormalise(double *v, uint32_t k, uint32_t d)
{
    for (uint32_t i = 0; i < k; i++) {
        double *x = v + (size_t)i * d;
        for (uint32_t j = 0; j < i; j++) {
            const double part = dot(x, v + (size_t)j * d, d);
            for (uint32_t c = 0; c < d; c++)
                x[c] -= part * v[(size_t)j * d + c];
        }
        const double length = sqrt(dot(x, x, d));
        for (uint32_t c = 0; c < d; c++)
            x[c] = length > 1e-12 ? x[c] / length : 0.0; /* fewer directions than asked for */
    }
}

/* directions <- rows' (rows directions'), made orthonormal again. */
static void sweep(space *s)
{
    memset(s->sums, 0, (size_t)s->k * s->d * sizeof *s->sums);
    for (uint32_t t = 0; t < s->n; t++)
        for (uint32_t i = 0; i < s->k; i++) {
            const float *row = s->rows + (size_t)t * s->d;
            double part = 0.0;
            for (uint32_t c = 0; c < s->d; c++)
                part += row[c] * s->directions[(size_t)i * s->d + c];
            for (uint32_t c = 0; c < s->d; c++)
                s->sums[(size_t)i * s->d + c] += part * row[c];
        }
    memcpy(s->directions, s->sums, (size_t)s->k * s->d * sizeof *s->sums);
    orthonormalise(s->directions, s->k, s->d);
}

static void find_directions(space *s)
{
    ot_rng rng = ot_rng_at(1, 0, 0);
    for (size_t i = 0; i < (size_t)s->k * s->d; i++)
        s->directions[i] = ot_rng_normal(&rng);
    orthonormalise(s->directions, s->k, s->d);
    for (int i = 0; i < SWEEPS; i++)
        sweep(s);
}

/* Fills rows with the n chosen tokens' embeddings. */
static void centre(space *s, const float *e, uint32_t n_vocab, const ot_tokenizer *tokenizer, double *mean)
{
    uint32_t at = 0;
    memset(mean, 0, s->d * sizeof *mean);
    for (uint32_t v = 0; v < n_vocab; v++)
        for (uint32_t c = 0; c < s->d; c++)
            mean[c] += e[(size_t)v * s->d + c] / (double)n_vocab;
    for (uint32_t v = 0; v < n_vocab && at < s->n; v++) {
        if (!has_typography(ot_token_bytes(tokenizer, (int32_t)v)))
            continue;
        float *row = s->rows + (size_t)at++ * s->d;
        double squares = 0.0;
        for (uint32_t c = 0; c < s->d; c++) {
            row[c] = (float)(e[(size_t)v * s->d + c] - mean[c]);
            squares += (double)row[c] * row[c];
        }
        for (uint32_t c = 0; c < s->d && squares > 0.0; c++)
            row[c] = (float)(row[c] / sqrt(squares));
    }
}

/* ---- Heads -------------------------------------------------------------------------------------------------- */

/* Takes the directions out of W_h (d rows of n_in). */
static void take_out(const space *s, ot_param *p)
{
    for (uint32_t i = 0; i < s->k; i++)
        for (uint32_t in = 0; in < p->n_in; in++) {
            const double *v = s->directions + (size_t)i * s->d;
            double part = 0.0;
            for (uint32_t c = 0; c < s->d; c++)
                part += v[c] * p->data[(size_t)c * p->n_in + in];
            for (uint32_t c = 0; c < s->d; c++)
                p->data[(size_t)c * p->n_in + in] -= (float)(part * v[c]);
        }
}

ot_status ot_neutral_typography(ot_insertion *x, const ot_model *base, uint32_t *n_directions, ot_error *err)
{
    const ot_insertion_spec *spec = &ot_insertion_get_info(x)->spec;
    const ot_model_info *info = ot_model_get_info(base);
    const ot_tokenizer *tokenizer = ot_model_tokenizer(base);
    space s = {.d = info->n_embd};
    float *e = NULL;
    if (spec->kind != OT_HEAD_GENERATION)
        return ot_fail_param(err, OT_ERR_INVALID, "neutral-typography", "--neutral-typography is for generation heads, which this insertion has none of");
    for (uint32_t v = 0; v < info->n_vocab; v++)
        s.n += has_typography(ot_token_bytes(tokenizer, (int32_t)v));
    s.k = s.n < DIRECTIONS ? s.n : DIRECTIONS;
    s.k = s.k < s.d ? s.k : s.d;
    *n_directions = s.k;
    if (s.k == 0)
        return OT_OK;
    ot_status st = ot_output_floats(&e, base, err);
    double *mean = ot_alloc(s.d, sizeof *mean);
    s.rows = ot_alloc((size_t)s.n * s.d, sizeof *s.rows);
    s.directions = ot_alloc((size_t)s.k * s.d, sizeof *s.directions);
    s.sums = ot_alloc((size_t)s.k * s.d, sizeof *s.sums);
    if (st == OT_OK && (mean == NULL || s.rows == NULL || s.directions == NULL || s.sums == NULL))
        st = ot_fail(err, OT_ERR_NOMEM, "out of memory for the embeddings of %u tokens", s.n);
    if (st == OT_OK) {
        centre(&s, e, info->n_vocab, tokenizer, mean);
        find_directions(&s);
        for (uint32_t k = 0; k < spec->n_outputs; k++) {
            char name[64];
            snprintf(name, sizeof name, "otter.head.%u.weight", k);
            take_out(&s, ot_insertion_find_param(x, name));
        }
        ot_insertion_commit(x, NULL);
    }
    free(e);
    free(mean);
    free(s.rows);
    free(s.directions);
    free(s.sums);
    return st;
}
