/* Json-transform picks fields out of an event's data and gives them other names.
 *
 * Its config: {"pick": {"new name": "path.to.field", "first": "items.0"}, "missing": "null"}.
 * A path goes into objects by name and into arrays by index. `missing` says what a field becomes
 * that is not there: null, skip (left out), or fail. Data that is an array is transformed element
 * by element. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

enum { INPUT_BYTES_MAX = 16 << 20 };
enum missing { MISSING_NULL, MISSING_SKIP, MISSING_FAIL };

struct plan {
    const struct json *pick;
    enum missing missing;
};

static _Noreturn void die(const char *what) {
    fprintf(stderr, "json-transform: %s\n", what);
    exit(2);
}

static const struct json *member(const struct json *object, const char *name) {
    return json_get(object, name, strlen(name));
}

static const struct json *parsed(const char *where, const char *text, size_t size) {
    struct json_error error;
    const struct json *value = json_parse(text, size, &error);
    if (value) return value;
    fprintf(stderr, "json-transform: %s, line %zu, column %zu: %s\n", where, error.line,
            error.column, error.what);
    exit(2);
}

static enum missing missing_of(const struct json *config) {
    static const char *const words[] = {"null", "skip", "fail"};
    const struct json *word = member(config, "missing");
    if (!word) return MISSING_NULL;
    size_t size = 0;
    const char *text = word->kind == JSON_STRING ? json_string(word, &size) : "";
    for (int i = 0; i < 3; i++)
        if (size == strlen(words[i]) && memcmp(text, words[i], size) == 0) return (enum missing)i;
    die("the config's \"missing\" is not one of \"null\", \"skip\", \"fail\"");
}

static struct plan read_plan(const char *text) {
    static const char usage[] = "the config needs \"pick\", an object of paths by new name, such "
                                "as {\"pick\": {\"customer\": \"buyer.name\"}}";
    if (!text) die(usage);
    const struct json *config = parsed("the config", text, strlen(text));
    const struct json *pick = member(config, "pick");
    if (!pick || pick->kind != JSON_OBJECT) die(usage);
    for (const struct json *path = pick->child; path; path = path->next)
        if (path->kind != JSON_STRING) die(usage);
    return (struct plan){.pick = pick, .missing = missing_of(config)};
}

static const struct json *find(const struct json *value, const struct json *path) {
    size_t size = 0;
    const char *at = json_string(path, &size), *end = at + size;
    while (value && at <= end) {
        const char *dot = memchr(at, '.', (size_t)(end - at));
        const char *stop = dot ? dot : end;
        value = json_get(value, at, (size_t)(stop - at));
        at = stop + 1;
    }
    return value;
}

/* Before anything is written, so that a failure leaves no half of a result. */
static void require(const struct json *value, struct plan plan) {
    for (const struct json *path = plan.pick->child; path; path = path->next) {
        if (find(value, path)) continue;
        size_t size = 0;
        char *text = json_string(path, &size);
        fprintf(stderr, "json-transform: the data has no \"%.*s\"\n", (int)size, text);
        exit(2);
    }
}

static void put_text(struct json_text text) { fwrite(text.at, 1, text.size, stdout); }

static void transform(const struct json *value, struct plan plan) {
    const char *separator = "";
    putchar('{');
    for (const struct json *path = plan.pick->child; path; path = path->next) {
        const struct json *found = find(value, path);
        if (!found && plan.missing == MISSING_SKIP) continue;
        fputs(separator, stdout);
        put_text(path->key);
        putchar(':');
        if (found) json_print(found); else fputs("null", stdout);
        separator = ",";
    }
    putchar('}');
}

static size_t read_all(char **text) {
    size_t size = 0, room = 1 << 16;
    *text = malloc(room);
    while (*text && size < INPUT_BYTES_MAX) {
        size_t got = fread(*text + size, 1, room - size, stdin);
        if (got == 0) return size;
        size += got;
        if (size == room) *text = realloc(*text, room *= 2);
    }
    die(*text ? "the event is too large" : "out of memory");
}

int main(void) {
    struct plan plan = read_plan(getenv("SLUICE_CONFIG"));
    char *text = NULL;
    size_t size = read_all(&text);
    const struct json *event = parsed("the event", text, size);
    const struct json *data = member(event, "data");
    if (!data || (data->kind != JSON_OBJECT && data->kind != JSON_ARRAY))
        die("the event's data is neither an object nor an array of objects");
    bool many = data->kind == JSON_ARRAY;
    const struct json *first = many ? data->child : data;
    for (const struct json *item = first; item; item = many ? item->next : NULL)
        if (plan.missing == MISSING_FAIL) require(item, plan);
    if (many) putchar('[');
    for (const struct json *item = first; item; item = many ? item->next : NULL) {
        transform(item, plan);
        if (many && item->next) putchar(',');
    }
    puts(many ? "]" : "");
    if (fflush(stdout) == EOF) die("the result could not be written");
    return 0;
}
