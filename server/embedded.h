/* Files that the program carries. The Makefile makes them into C with scripts/embed; a zero stands behind each and is not counted. */
#ifndef OTTER_SERVER_EMBEDDED_H
#define OTTER_SERVER_EMBEDDED_H

#include <stddef.h>

/* api-spec/openapi.yaml */
extern const char ot_openapi_yaml[];
extern const size_t ot_openapi_yaml_size;

/* server/playground/: page.html with its style sheet and scripts inside. */
extern const char ot_playground_html[];
extern const size_t ot_playground_html_size;

#endif
