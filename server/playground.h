/* The page at `/`. */
#ifndef OTTER_SERVER_PLAYGROUND_H
#define OTTER_SERVER_PLAYGROUND_H

#define OT_PAGE_POLICY_BYTES 320

/* The Content-Security-Policy of the page, made once when the server opens. */
void ot_playground_policy(char policy[OT_PAGE_POLICY_BYTES]);

#endif
