/* api-spec/openapi.yaml as bytes of the program. The path is from the repository's root, where make runs the compiler; the
 * Makefile names the file as a prerequisite of this object. */
#include "server/server.h"

__asm__(".section .rodata\n"
        ".global ot_openapi_yaml\n"
        ".global ot_openapi_yaml_end\n"
        "ot_openapi_yaml:\n"
        ".incbin \"api-spec/openapi.yaml\"\n"
        "ot_openapi_yaml_end:\n"
        ".byte 0\n"
        ".previous\n");
