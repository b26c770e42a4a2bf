// The little of a C library that hello.c and its generated bindings need, for builds without one.
// With the WASI SDK, leave this file out.

#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern uint8_t __heap_base; // Set by the linker: where static data ends.

void abort(void) { __builtin_trap(); }

// Takes from the end of memory and never reuses: an instance serves a request and is dropped.
void *realloc(void *old, size_t size) {
    static uintptr_t top;
    if (top == 0) top = (uintptr_t)&__heap_base;
    uintptr_t block = ((top + 15) & ~(uintptr_t)15) + 16; // The 16 bytes hold the size.
    uintptr_t end = block + size;
    if (end < block) return NULL;
    uintptr_t have = __builtin_wasm_memory_size(0) * 65536;
    if (end > have && __builtin_wasm_memory_grow(0, (end - have + 65535) / 65536) == SIZE_MAX)
        return NULL;
    top = end;
    ((size_t *)block)[-1] = size;
    if (old) {
        size_t had = ((size_t *)old)[-1];
        __builtin_memcpy((void *)block, old, had < size ? had : size);
    }
    return (void *)block;
}

void *memchr(const void *bytes, int wanted, size_t len) {
    for (const uint8_t *at = bytes; len > 0; at++, len--)
        if (*at == (uint8_t)wanted) return (void *)at;
    return NULL;
}
