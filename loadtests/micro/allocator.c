/* Counts what a thread asks CPython's allocators for: how often, and how many bytes.

   Compiled and loaded by loadtests/micro/allocator.py into the running interpreter, whose allocators it stands
   in front of. It needs no Python.h: the struct below has been the same since Python 3.5. */

#include <stddef.h>

typedef struct {
    void *ctx;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} Allocator; /* PyMemAllocatorEx */

extern void PyMem_GetAllocator(int domain, Allocator *allocator);
extern void PyMem_SetAllocator(int domain, Allocator *allocator);

enum { MEM = 1, OBJ = 2 };

static Allocator original[3];
static __thread int is_counting; /* in this thread */
static __thread unsigned long long calls, bytes;

static void *count_malloc(void *ctx, size_t size)
{
    Allocator *next = ctx;
    if (is_counting) { calls++; bytes += size; }
    return next->malloc(next->ctx, size);
}

static void *count_calloc(void *ctx, size_t number, size_t size)
{
    Allocator *next = ctx;
    if (is_counting) { calls++; bytes += number * size; }
    return next->calloc(next->ctx, number, size);
}

static void *count_realloc(void *ctx, void *memory, size_t size)
{
    Allocator *next = ctx;
    if (is_counting) { calls++; bytes += size; }
    return next->realloc(next->ctx, memory, size);
}

static void pass_free(void *ctx, void *memory)
{
    Allocator *next = ctx;
    next->free(next->ctx, memory);
}

/* To be called with the GIL held, as all of these. */
void install(void)
{
    int domain;
    for (domain = MEM; domain <= OBJ; domain++) {
        Allocator mine = {&original[domain], count_malloc, count_calloc, count_realloc, pass_free};
        PyMem_GetAllocator(domain, &original[domain]);
        PyMem_SetAllocator(domain, &mine);
    }
}

void uninstall(void)
{
    int domain;
    for (domain = MEM; domain <= OBJ; domain++)
        PyMem_SetAllocator(domain, &original[domain]);
}

void start(void) { calls = bytes = 0; is_counting = 1; }
void stop(void) { is_counting = 0; }
unsigned long long counted_calls(void) { return calls; }
unsigned long long counted_bytes(void) { return bytes; }
