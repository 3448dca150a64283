package main

// #include <stdlib.h>
// __attribute__((noinline)) void *cgo_site(size_t bytes) { return malloc(bytes); }
import "C"

// A program in two languages has two allocators.
func init() {
	foreign = func() { C.free(C.cgo_site(1000)) }
}
