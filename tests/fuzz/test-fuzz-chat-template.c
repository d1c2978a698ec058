/* Chat templates: whatever text a model file has for one is taken or refused, and what is taken renders. */
#include <stdlib.h>

#include "tests/support/fuzz-target.h"
#include "text/chat-template.h"

static int take(const uint8_t *data, size_t size)
{
    static const ot_chat_message messages[] = {{"system", "Be brief."}, {"user", "Hi <|im_end|> {{ x }}"}, {"assistant", "Yes"}};
    ot_chat_template *chat = NULL;
    ot_error err;
    if (ot_chat_template_parse(&chat, (const char *)data, size, &err) != OT_OK)
        return 0;
    for (size_t n = 1; n <= 3; n++) {
        char *text = NULL;
        size_t text_size;
        ot_chat_template_render(chat, NULL, messages + 3 - n, n, n < 3, n == 3, &text, &text_size, &err);
        free(text);
    }
    ot_chat_template_close(&chat);
    return 0;
}

OT_FUZZ_TARGET("chat-template", 6000, take)
