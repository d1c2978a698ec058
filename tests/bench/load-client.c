/* Sends N streaming completions at once to an OpenAI-shaped server and measures what its clients see.
 *
 *     load-client --url http://127.0.0.1:8080 --clients 1,4,16
 *
 * All N connections are opened in one moment ("cold": nothing runs yet, and no prompt shares its beginning with another), each asks
 * for a fixed number of tokens, greedily and past any end of text, and reads to [DONE]. Then the next count has its turn. One thread
 * and poll(), so that the cores stay the server's: parsing an event is a few string searches, and nothing is allocated while
 * streams run. Needs nothing but the C library.
 *
 * Time to first token counts from before the connection is opened to the first event with text; time between tokens is from one
 * event with text to the next of the same stream. Tokens are what the server's usage says, else the events with text. Prompts are
 * drawn from a list of words that byte-pair vocabularies hold whole (" river"), so that words are tokens almost one to one; the usage says
 * how many there were.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 1024, MAX_WORDS = 100000, MAX_TOKENS = 100000, LINE_BYTES = 65536, TEXT_BYTES = 160 };

static const char *const words[] = {
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state", "family",
    "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system", "program", "question",
    "work", "night", "point", "home", "water", "room", "mother", "area", "money", "story", "fact", "month", "right", "river",
    "and", "the", "of", "in", "under", "with", "without", "before", "after", "near", "is", "was", "has", "makes", "takes", "gives",
};

typedef struct options {
    struct sockaddr_in address;
    char host[64];
    uint32_t clients[16], n_counts;
    uint32_t prompt_words, max_tokens;
    uint64_t seed;
    double timeout_s;
    bool help;
} options;

typedef enum phase { SENDING, HEADERS, BODY, DONE, FAILED } phase;
typedef enum framing { PLAIN, CHUNK_SIZE, CHUNK_DATA, CHUNK_END } framing;

typedef struct stream {
    int fd;
    phase phase;
    framing framing;
    char *request, *line;        // (n_request), (LINE_BYTES): the line being assembled
    size_t n_request, n_sent, n_line, chunk_left, n_chunk_line;
    char chunk_line[20];
    double first_s, last_s;      // of events with text, on the clock of now()
    double *gaps;                // (max_tokens) seconds between them
    uint32_t n_gaps, n_events, status, prompt_tokens, completion_tokens;
    char failure[TEXT_BYTES];
} stream;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fail(stream *s, const char *what, const char *detail)
{
    s->phase = FAILED;
    snprintf(s->failure, sizeof s->failure, "%s%.100s", what, detail);
}

/* ---- The request ----------------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea and Flood, 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Fills s->request; `number` makes the prompt differ from every other of the run. False without memory. */
static bool make_request(stream *s, const options *o, uint32_t number)
{
    const size_t max_body = (size_t)o->prompt_words * 16 + 512;
    char *body = malloc(max_body);
    s->request = malloc(max_body + 512);
    if (body == NULL || s->request == NULL) {
        free(body);
        return false;
    }
    size_t n = (size_t)snprintf(body, max_body, "{\"prompt\":\"");
    uint64_t random = o->seed << 32 ^ number;
    for (uint32_t i = 0; i < o->prompt_words; i++) {
        const char *word = words[next_random(&random) % (sizeof words / sizeof words[0])];
        n += (size_t)snprintf(body + n, max_body - n, " %s", word);
    }
    n += (size_t)snprintf(body + n, max_body - n,
                          "\",\"max_tokens\":%u,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
                          "\"stream_options\":{\"include_usage\":true}}",
                          o->max_tokens);
    s->n_request = (size_t)snprintf(s->request, max_body + 512,
                                    "POST /v1/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                                    "Accept: text/event-stream\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                                    o->host, n, body);
    free(body);
    return true;
}

static void open_stream(stream *s, const options *o)
{
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const int one = 1;
    if (s->fd >= 0)
        setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (s->fd < 0 || (connect(s->fd, (const struct sockaddr *)&o->address, sizeof o->address) != 0 && errno != EINPROGRESS))
        fail(s, "cannot connect: ", strerror(errno));
}

static void send_some(stream *s)
{
    const ssize_t n = send(s->fd, s->request + s->n_sent, s->n_request - s->n_sent, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        fail(s, "cannot send: ", strerror(errno));
    else if (n > 0 && (s->n_sent += (size_t)n) == s->n_request)
        s->phase = HEADERS;
}

/* ---- The answer ------------------------------------------------------------------------------------------ */

/* What follows `"key":` and spaces in a line of JSON, NULL without it. A quote within a string is escaped, so no text can look like a
 * key except a string that is exactly the key, which these events do not have. */
static const char *value_of(const char *json, const char *key)
{
    const size_t n = strlen(key);
    for (const char *p = json; (p = strstr(p, key)) != NULL; p += n) {
        if (p == json || p[-1] != '"' || p[n] != '"' || (p - 1 > json && p[-2] == '\\'))
            continue;
        const char *value = p + n + 1 + strspn(p + n + 1, " ");
        if (*value == ':')
            return value + 1 + strspn(value + 1, " ");
    }
    return NULL;
}

static void on_event(stream *s, const char *json, double t, const options *o)
{
    if (strcmp(json, "[DONE]") == 0) {
        s->phase = DONE;
        return;
    }
    const char *text = value_of(json, "text"), *value;
    if (text == NULL && value_of(json, "error") != NULL) {
        fail(s, "error in the stream: ", json);
        return;
    }
    if (text != NULL && text[0] == '"' && text[1] != '"') {
        if (s->n_events > 0 && s->n_gaps < o->max_tokens)
            s->gaps[s->n_gaps++] = t - s->last_s;
        if (s->n_events++ == 0)
            s->first_s = t;
        s->last_s = t;
    }
    if ((value = value_of(json, "completion_tokens")) != NULL)
        s->completion_tokens = (uint32_t)strtoul(value, NULL, 10);
    if ((value = value_of(json, "prompt_tokens")) != NULL)
        s->prompt_tokens = (uint32_t)strtoul(value, NULL, 10);
}

/* A line of the header or of the event stream, without its end. */
static void on_line(stream *s, double t, const options *o)
{
    s->line[s->n_line] = '\0';
    if (s->n_line > 0 && s->line[s->n_line - 1] == '\r')
        s->line[--s->n_line] = '\0';
    if (s->phase == BODY) {
        if (strncmp(s->line, "data:", 5) == 0)
            on_event(s, s->line + 5 + strspn(s->line + 5, " "), t, o);
    } else if (s->status == 0) {
        if (sscanf(s->line, "HTTP/1.%*c %u", &s->status) != 1)
            fail(s, "no HTTP answer: ", s->line);
    } else if (strcasecmp(s->line, "Transfer-Encoding: chunked") == 0) {
        s->framing = CHUNK_SIZE;
    } else if (s->n_line == 0) {
        s->phase = BODY;
    }
    s->n_line = 0;
}

static void on_text_byte(stream *s, char c, double t, const options *o)
{
    if (c == '\n')
        on_line(s, t, o);
    else if (s->n_line < LINE_BYTES - 1)
        s->line[s->n_line++] = c;
    else
        fail(s, "a line is too long", "");
}

/* Takes the frames of chunked transfer coding (RFC 9112, 7.1) off the body. */
static void on_body_byte(stream *s, char c, double t, const options *o)
{
    switch (s->framing) {
    case PLAIN: on_text_byte(s, c, t, o); break;
    case CHUNK_DATA:
        on_text_byte(s, c, t, o);
        if (--s->chunk_left == 0)
            s->framing = CHUNK_END;
        break;
    case CHUNK_END:
        if (c == '\n')
            s->framing = CHUNK_SIZE;
        break;
    case CHUNK_SIZE:
        if (c != '\n') {
            if (s->n_chunk_line < sizeof s->chunk_line - 1)
                s->chunk_line[s->n_chunk_line++] = c;
            break;
        }
        s->chunk_line[s->n_chunk_line] = '\0';
        s->n_chunk_line = 0;
        s->chunk_left = strtoul(s->chunk_line, NULL, 16);
        s->framing = s->chunk_left > 0 ? CHUNK_DATA : CHUNK_END;
        break;
    }
}

static void receive_some(stream *s, const options *o)
{
    static char buffer[65536];
    const ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        s->line[s->n_line] = '\0';
        fail(s, n < 0 ? "cannot receive: " : "closed before [DONE] ", n < 0 ? strerror(errno) : s->line);
        return;
    }
    const double t = now();
    for (ssize_t i = 0; i < n && s->phase < DONE; i++) {
        if (s->phase == BODY)
            on_body_byte(s, buffer[i], t, o);
        else
            on_text_byte(s, buffer[i], t, o);
    }
}

/* ---- One count of clients -------------------------------------------------------------------------------- */

static void run_streams(stream *streams, uint32_t n, const options *o, double start)
{
    struct pollfd polls[MAX_CLIENTS];
    for (uint32_t i = 0; i < n; i++)
        open_stream(&streams[i], o);
    for (;;) {
        uint32_t n_open = 0;
        for (uint32_t i = 0; i < n; i++) {
            const bool is_open = streams[i].phase < DONE;
            polls[i] = (struct pollfd){.fd = is_open ? streams[i].fd : -1, .events = streams[i].phase == SENDING ? POLLOUT : POLLIN};
            n_open += is_open;
        }
        const double left = start + o->timeout_s - now();
        if (n_open == 0)
            return;
        if (left <= 0) {
            for (uint32_t i = 0; i < n; i++)
                if (streams[i].phase < DONE)
                    fail(&streams[i], "not done in time", "");
            return;
        }
        if (poll(polls, n, (int)(left * 1000) + 1) < 0)
            continue;
        for (uint32_t i = 0; i < n; i++) {
            if (polls[i].fd < 0 || polls[i].revents == 0)
                continue;
            if (streams[i].phase == SENDING)
                send_some(&streams[i]);
            else
                receive_some(&streams[i], o);
        }
    }
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The smallest value that a `share` of the sorted ones do not exceed, in milliseconds. */
static double quantile_ms(const double *sorted, uint32_t n, double share)
{
    const double rank = share * n;
    uint32_t i = (uint32_t)rank - (n > 0 && (double)(uint32_t)rank == rank);
    return n == 0 ? 0.0 : 1000.0 * sorted[i < n ? i : n - 1];
}

static void report(stream *streams, uint32_t n, double start, double *first, double *gaps)
{
    uint32_t n_first = 0, n_gaps = 0, n_failed = 0;
    uint64_t prompt_tokens = 0, tokens = 0;
    double end = start;
    for (uint32_t i = 0; i < n; i++) {
        stream *s = &streams[i];
        if (s->phase == DONE && s->n_events == 0)
            fail(s, "no text came", "");
        if (s->phase != DONE) {
            n_failed++;
            fprintf(stderr, "load-client: client %u of %u: status %u: %s\n", i + 1, n, s->status, s->failure);
            continue;
        }
        first[n_first++] = s->first_s - start;
        memcpy(gaps + n_gaps, s->gaps, s->n_gaps * sizeof *gaps);
        n_gaps += s->n_gaps;
        prompt_tokens += s->prompt_tokens;
        tokens += s->completion_tokens > 0 ? s->completion_tokens : s->n_events;
        end = s->last_s > end ? s->last_s : end;
    }
    qsort(first, n_first, sizeof *first, by_value);
    qsort(gaps, n_gaps, sizeof *gaps, by_value);
    printf("{\"clients\": %u, \"failed\": %u, \"prompt_tokens\": %.1f, \"completion_tokens\": %llu, \"tokens_per_s\": %.3f, "
           "\"first_token_ms\": {\"median\": %.2f, \"p95\": %.2f}, \"between_tokens_ms\": {\"median\": %.3f, \"p95\": %.3f}}\n",
           n, n_failed, n_first > 0 ? (double)prompt_tokens / n_first : 0.0, (unsigned long long)tokens,
           end > start ? (double)tokens / (end - start) : 0.0, quantile_ms(first, n_first, 0.5), quantile_ms(first, n_first, 0.95),
           quantile_ms(gaps, n_gaps, 0.5), quantile_ms(gaps, n_gaps, 0.95));
    fflush(stdout);
}

/* Runs n clients and prints their line. Returns the number that failed, -1 without memory. `number` is the first prompt's. */
static int run_count(const options *o, uint32_t n, uint32_t number)
{
    stream *streams = calloc(n, sizeof *streams);
    double *first = malloc(n * sizeof *first), *gaps = malloc((size_t)n * o->max_tokens * sizeof *gaps);
    bool ok = streams != NULL && first != NULL && gaps != NULL;
    for (uint32_t i = 0; ok && i < n; i++) {
        streams[i].fd = -1;
        streams[i].line = malloc(LINE_BYTES);
        streams[i].gaps = malloc(o->max_tokens * sizeof *gaps);
        ok = make_request(&streams[i], o, number + i) && streams[i].line != NULL && streams[i].gaps != NULL;
    }
    int n_failed = -1;
    if (ok) {
        const double start = now();
        run_streams(streams, n, o, start);
        report(streams, n, start, first, gaps);
        n_failed = 0;
        for (uint32_t i = 0; i < n; i++)
            n_failed += streams[i].phase != DONE;
    }
    for (uint32_t i = 0; streams != NULL && i < n; i++) {
        if (streams[i].fd >= 0)
            close(streams[i].fd);
        free(streams[i].request);
        free(streams[i].line);
        free(streams[i].gaps);
    }
    free(streams);
    free(first);
    free(gaps);
    return n_failed;
}

/* ---- The command line ------------------------------------------------------------------------------------ */

static void usage(FILE *to)
{
    fprintf(to, "Usage: load-client --url http://ADDRESS:PORT [OPTION]...\n\n"
                "Sends N streaming completions at once and measures what the clients see; a line of JSON for each N.\n\n"
                "  --clients A,B,...   counts of clients, one after the other (default 1,4,16)\n"
                "  --prompt-words N    words of a prompt, almost one token each (default 512)\n"
                "  --max-tokens N      tokens to ask for (default 64)\n"
                "  --seed N            draws other prompts, which no cache knows yet (default 1)\n"
                "  --timeout S         for each count (default 900)\n\n"
                "Exit status: 0, 1 if any request failed, 2 wrong usage.\n");
}

static bool parse_url(options *o, const char *text)
{
    unsigned port;
    char after;
    const int n = sscanf(text, "http://%63[0-9.]:%5u%c", o->host, &port, &after);
    if ((n != 2 && !(n == 3 && after == '/')) || port < 1 || port > 65535)
        return false;
    o->address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    return inet_pton(AF_INET, o->host, &o->address.sin_addr) == 1;
}

static bool parse_counts(options *o, char *text)
{
    o->n_counts = 0;
    for (char *save, *p = strtok_r(text, ",", &save); p != NULL; p = strtok_r(NULL, ",", &save)) {
        const unsigned long n = strtoul(p, NULL, 10);
        if (n < 1 || n > MAX_CLIENTS || o->n_counts == 16)
            return false;
        o->clients[o->n_counts++] = (uint32_t)n;
    }
    return o->n_counts > 0;
}

static bool parse_number(uint32_t *value, const char *text, uint32_t max)
{
    char *end;
    const unsigned long n = strtoul(text, &end, 10);
    *value = (uint32_t)n;
    return *end == '\0' && n >= 1 && n <= max;
}

static bool parse_options(options *o, int argc, char **argv)
{
    static const struct option long_options[] = {
        {"url", required_argument, NULL, 'u'},          {"clients", required_argument, NULL, 'c'},
        {"prompt-words", required_argument, NULL, 'p'}, {"max-tokens", required_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},         {"timeout", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},               {NULL, 0, NULL, 0},
    };
    bool ok = true;
    for (int c; ok && (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        switch (c) {
        case 'u': ok = parse_url(o, optarg); break;
        case 'c': ok = parse_counts(o, optarg); break;
        case 'p': ok = parse_number(&o->prompt_words, optarg, MAX_WORDS); break;
        case 'n': ok = parse_number(&o->max_tokens, optarg, MAX_TOKENS); break;
        case 's': o->seed = strtoull(optarg, NULL, 10); break;
        case 't': o->timeout_s = atof(optarg); break;
        case 'h': o->help = true; return true;
        default: ok = false;
        }
    }
    return ok && optind == argc && o->host[0] != '\0';
}

int main(int argc, char **argv)
{
    options o = {.clients = {1, 4, 16}, .n_counts = 3, .prompt_words = 512, .max_tokens = 64, .seed = 1, .timeout_s = 900};
    if (!parse_options(&o, argc, argv)) {
        usage(stderr);
        return 2;
    }
    if (o.help) {
        usage(stdout);
        return 0;
    }
    bool failed = false;
    uint32_t number = 1;
    for (uint32_t i = 0; i < o.n_counts; i++) {
        const int n_failed = run_count(&o, o.clients[i], number);
        if (n_failed < 0)
            fprintf(stderr, "load-client: out of memory\n");
        failed = failed || n_failed != 0;
        number += o.clients[i];
    }
    return failed;
}
