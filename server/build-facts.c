/* What a report of a fault should say of the program: the libraries that it found at run time. */
#include "server/server.h"

#include <jansson.h>
#include <microhttpd.h>
#include <stdio.h>
#include <uv.h>

void ot_server_describe_libraries(char *text, size_t size)
{
    snprintf(text, size, "libmicrohttpd %s, libuv %s, jansson %s", MHD_get_version(), uv_version_string(), jansson_version_str());
}
