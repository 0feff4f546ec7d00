/* A reader of JSON (RFC 8259) that keeps every value as the text it was written in, so that no
 * number loses a digit and no string changes an escape on its way through. */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>

enum { JSON_DEPTH_MAX = 64 };

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json_text {
    const char *at;
    size_t size;
};

struct json {
    enum json_kind kind;
    struct json_text text;  /* as it was written, quotes and brackets included */
    struct json_text key;   /* in an object: the member's name, as it was written */
    char *name;             /* in an object: the same with its escapes resolved */
    size_t name_size;
    struct json *child;     /* the first element or member */
    struct json *next;      /* the next one beside it */
};

struct json_error {
    const char *what;
    size_t line, column;
};

/* Returns the value of a whole text, which must outlive it, or NULL and the error.
 * What is allocated is never freed: a guest lives for one event. */
struct json *json_parse(const char *text, size_t size, struct json_error *error);

/* Returns a member of an object by name (the last one where it stands twice, as JavaScript has
 * it), an element of an array by its decimal index, or NULL. */
const struct json *json_get(const struct json *value, const char *name, size_t size);

/* Returns the text that a string stands for, its escapes resolved, and its size. */
char *json_string(const struct json *string, size_t *size);

/* Writes a value without the white space it was written with; returns false where stdout fails. */
bool json_print(const struct json *value);

#endif
