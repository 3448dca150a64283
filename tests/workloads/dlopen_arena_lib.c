/* A library that brings an allocator: blocks of one size come from a list, or from the end of what was used so far. Not for several threads. */
#include <stddef.h>

#ifndef NAME
#define NAME(name) name
#endif

enum { CLASSES = 64, STEP = 16 };

static char arena[64 << 20] __attribute__((aligned(16)));
static size_t used;

/* Before each block. */
struct head {
    size_t class;
    struct head *next;
};

static struct head *lists[CLASSES];

void *NAME(malloc)(size_t bytes) {
    size_t class = (bytes + STEP - 1) / STEP;
    if (class < CLASSES && lists[class]) {
        struct head *head = lists[class];
        lists[class] = head->next;
        return head + 1;
    }
    size_t size = sizeof(struct head) + class * STEP;
    if (size > sizeof arena - used) return NULL;
    struct head *head = (struct head *)(arena + used);
    used += size;
    head->class = class;
    return head + 1;
}

void NAME(free)(void *block) {
    if (!block) return;
    struct head *head = (struct head *)block - 1;
    if (head->class >= CLASSES) return;
    head->next = lists[head->class];
    lists[head->class] = head;
}
