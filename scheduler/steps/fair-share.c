/* fair-share.h. A short array, looked through when a request begins. */
#include "scheduler/steps/fair-share.h"

#include <stdlib.h>

#include "base/asserts.h"

ot_status ot_fair_share_open(ot_fair_share *f, uint32_t capacity, ot_error *err)
{
    *f = (ot_fair_share){.capacity = capacity, .accounts = calloc(capacity, sizeof *f->accounts)};
    return f->accounts != NULL ? OT_OK : ot_fail(err, OT_ERR_NOMEM, "no memory for the accounts of %u clients", capacity);
}

void ot_fair_share_close(ot_fair_share *f)
{
    free(f->accounts);
    *f = (ot_fair_share){0};
}

/* Where a client starts that has had nothing: level with who has had least of those at work, or, where nobody is, with everyone. */
static uint64_t starting_level(const ot_fair_share *f)
{
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t i = 0; i < f->n; i++) {
        const ot_account *a = &f->accounts[i];
        most = a->n_rows > most ? a->n_rows : most;
        if (a->n_live > 0 && a->n_rows < least)
            least = a->n_rows;
    }
    return least != UINT64_MAX ? least : most;
}

/* The client's account, or a place for one: an unused one, else that of the absent client who has had least. */
static ot_account *find(ot_fair_share *f, uint64_t client)
{
    ot_account *place = NULL;
    for (uint32_t i = 0; i < f->n; i++) {
        ot_account *a = &f->accounts[i];
        if (a->client == client)
            return a;
        if (a->n_live == 0 && (place == NULL || a->n_rows < place->n_rows))
            place = a;
    }
    if (f->n < f->capacity)
        place = &f->accounts[f->n++];
    OT_ASSERT(place != NULL);
    *place = (ot_account){.client = client};
    return place;
}

ot_account *ot_fair_share_enter(ot_fair_share *f, uint64_t client)
{
    uint64_t level = starting_level(f);
    ot_account *a = find(f, client);
    if (a->n_live++ == 0 && a->n_rows < level)
        a->n_rows = level;
    return a;
}

void ot_fair_share_leave(ot_account *account)
{
    OT_ASSERT(account->n_live > 0);
    account->n_live--;
}
