#include "json.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *begin, *at, *end;
    const char *what; /* the first error, found at `at` */
    int depth;
};

static struct json *read_value(struct reader *r);

static bool fail(struct reader *r, const char *what) {
    if (!r->what) r->what = what;
    return false;
}

static void skip_space(struct reader *r) {
    while (r->at < r->end && strchr(" \t\r\n", *r->at) && *r->at) r->at++;
}

static bool take(struct reader *r, char c) {
    if (r->at == r->end || *r->at != c) return false;
    r->at++;
    return true;
}

static bool is_digit(const struct reader *r) {
    return r->at < r->end && *r->at >= '0' && *r->at <= '9';
}

static bool read_digits(struct reader *r) {
    if (!is_digit(r)) return fail(r, "expected a digit");
    while (is_digit(r)) r->at++;
    return true;
}

static bool read_number(struct reader *r) {
    take(r, '-');
    if (!take(r, '0') && !read_digits(r)) return false;
    if (take(r, '.') && !read_digits(r)) return false;
    if (take(r, 'e') || take(r, 'E')) {
        if (!take(r, '+')) take(r, '-');
        return read_digits(r);
    }
    return true;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool read_escape(struct reader *r) {
    if (r->at == r->end || !strchr("\"\\/bfnrtu", *r->at) || !*r->at)
        return fail(r, "unknown escape");
    if (*r->at++ != 'u') return true;
    for (int i = 0; i < 4; i++, r->at++) {
        if (r->at == r->end || hex_digit(*r->at) < 0)
            return fail(r, "expected four hex digits after \\u");
    }
    return true;
}

/* UTF-8 by the table of RFC 3629: no overlong form, no surrogate, nothing over U+10FFFF. */
static bool read_utf8(struct reader *r) {
    unsigned char lead = (unsigned char)*r->at++;
    unsigned char low = 0x80, high = 0xBF;
    int more = lead >= 0xC2 && lead <= 0xDF ? 1 : (lead & 0xF0) == 0xE0 ? 2 : 3;
    if (lead < 0xC2 || lead > 0xF4) return fail(r, "not UTF-8");
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (; more; more--, low = 0x80, high = 0xBF) {
        unsigned char c = r->at < r->end ? (unsigned char)*r->at : 0;
        if (c < low || c > high) return fail(r, "not UTF-8");
        r->at++;
    }
    return true;
}

static bool read_string(struct reader *r) {
    if (!take(r, '"')) return fail(r, "expected a string");
    while (r->at < r->end && *r->at != '"') {
        unsigned char c = (unsigned char)*r->at;
        if (c < 0x20) return fail(r, "a control character in a string");
        if (c >= 0x80) {
            if (!read_utf8(r)) return false;
            continue;
        }
        r->at++;
        if (c == '\\' && !read_escape(r)) return false;
    }
    return take(r, '"') || fail(r, "the string does not end");
}

static bool read_word(struct reader *r, const char *word) {
    size_t size = strlen(word);
    if ((size_t)(r->end - r->at) < size || memcmp(r->at, word, size) != 0)
        return fail(r, "expected a value");
    r->at += size;
    return true;
}

static void *allocate(size_t size) {
    void *memory = calloc(1, size);
    if (memory) return memory;
    fputs("json-transform: out of memory\n", stderr);
    exit(1);
}

static bool read_key(struct reader *r, struct json_text *key) {
    key->at = r->at;
    if (!read_string(r)) return false;
    key->size = (size_t)(r->at - key->at);
    skip_space(r);
    if (!take(r, ':')) return fail(r, "expected a colon");
    skip_space(r);
    return true;
}

static bool read_children(struct reader *r, struct json *parent) {
    char close = parent->kind == JSON_OBJECT ? '}' : ']';
    struct json **last = &parent->child;
    if (r->depth++ == JSON_DEPTH_MAX) return fail(r, "nested too deeply");
    r->at++;
    skip_space(r);
    if (take(r, close)) return r->depth--, true;
    do {
        struct json_text key = {0};
        skip_space(r);
        if (parent->kind == JSON_OBJECT && !read_key(r, &key)) return false;
        if (!(*last = read_value(r))) return false;
        if (key.at) {
            struct json name = {.text = key};
            (*last)->key = key;
            (*last)->name = json_string(&name, &(*last)->name_size);
        }
        last = &(*last)->next;
        skip_space(r);
    } while (take(r, ','));
    r->depth--;
    return take(r, close) || fail(r, "expected a comma or the closing bracket");
}

static bool read_kind(struct reader *r, struct json *value) {
    switch (r->at < r->end ? *r->at : 0) {
    case '{': value->kind = JSON_OBJECT; return read_children(r, value);
    case '[': value->kind = JSON_ARRAY; return read_children(r, value);
    case '"': value->kind = JSON_STRING; return read_string(r);
    case 't': value->kind = JSON_BOOL; return read_word(r, "true");
    case 'f': value->kind = JSON_BOOL; return read_word(r, "false");
    case 'n': value->kind = JSON_NULL; return read_word(r, "null");
    default:
        if (!is_digit(r) && (r->at == r->end || *r->at != '-')) return fail(r, "expected a value");
        value->kind = JSON_NUMBER;
        return read_number(r);
    }
}

static struct json *read_value(struct reader *r) {
    struct json *value = allocate(sizeof *value);
    value->text.at = r->at;
    if (!read_kind(r, value)) return NULL;
    value->text.size = (size_t)(r->at - value->text.at);
    return value;
}

static void locate(const struct reader *r, struct json_error *error) {
    *error = (struct json_error){.what = r->what, .line = 1, .column = 1};
    for (const char *c = r->begin; c < r->at; c++) {
        error->column++;
        if (*c == '\n') error->line++, error->column = 1;
    }
}

struct json *json_parse(const char *text, size_t size, struct json_error *error) {
    struct reader r = {.begin = text, .at = text, .end = text + size};
    skip_space(&r);
    struct json *value = read_value(&r);
    skip_space(&r);
    if (value && r.at < r.end) fail(&r, "expected nothing more");
    if (!r.what) return value;
    locate(&r, error);
    return NULL;
}

const struct json *json_get(const struct json *value, const char *name, size_t size) {
    const struct json *found = NULL;
    if (value->kind == JSON_OBJECT) {
        for (const struct json *c = value->child; c; c = c->next)
            if (c->name_size == size && memcmp(c->name, name, size) == 0) found = c;
        return found;
    }
    if (value->kind != JSON_ARRAY || size == 0 || size > 9) return NULL;
    size_t index = 0;
    for (size_t i = 0; i < size; i++) {
        if (name[i] < '0' || name[i] > '9') return NULL;
        index = index * 10 + (size_t)(name[i] - '0');
    }
    for (found = value->child; found && index; index--) found = found->next;
    return found;
}

static uint32_t hex4(const char *at) {
    uint32_t code = 0;
    for (int i = 0; i < 4; i++) code = code << 4 | (uint32_t)hex_digit(at[i]);
    return code;
}

static char *put_utf8(char *to, uint32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3F));
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    }
    return to;
}

/* Resolves what follows a backslash; a surrogate without its partner becomes U+FFFD. */
static char *put_escape(char *to, const char **at, const char *end) {
    static const char letters[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    char letter = *(*at)++;
    if (letter != 'u') {
        *to++ = bytes[strchr(letters, letter) - letters];
        return to;
    }
    uint32_t code = hex4(*at);
    *at += 4;
    bool high = code >= 0xD800 && code < 0xDC00;
    if (high && end - *at >= 6 && (*at)[0] == '\\' && (*at)[1] == 'u') {
        uint32_t low = hex4(*at + 2);
        if (low >= 0xDC00 && low < 0xE000) {
            *at += 6;
            return put_utf8(to, 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00));
        }
    }
    return put_utf8(to, code >= 0xD800 && code < 0xE000 ? 0xFFFD : code);
}

char *json_string(const struct json *string, size_t *size) {
    const char *at = string->text.at + 1, *end = string->text.at + string->text.size - 1;
    char *text = allocate(string->text.size), *to = text; /* no escape is shorter than its text */
    while (at < end) {
        if (*at != '\\') {
            *to++ = *at++;
            continue;
        }
        at++;
        to = put_escape(to, &at, end);
    }
    *size = (size_t)(to - text);
    return text;
}

bool json_print(const struct json *value) {
    bool quoted = false;
    const char *end = value->text.at + value->text.size;
    for (const char *c = value->text.at; c < end; c++) {
        if (!quoted && strchr(" \t\r\n", *c)) continue;
        if (putchar(*c) == EOF) return false;
        if (quoted && *c == '\\') {
            if (putchar(*++c) == EOF) return false;
        } else if (*c == '"') {
            quoted = !quoted;
        }
    }
    return true;
}
