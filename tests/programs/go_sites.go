// Allocates at known places and prints what it did. SECONDS to wait, then SCALE times each place; a rate for the heap profile, if one is given.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"
)

var sink [64][]byte
var kept [][]byte

// What another language allocates, if there is one.
var foreign func()

// Sizes are those of Go's own classes, so that nothing is rounded up.
const smallBytes, middleBytes, largeBytes, keptBytes, deepBytes = 32, 1024, 200 << 10, 64 << 10, 48

//go:noinline
func siteSmall(i int) { sink[i&63] = make([]byte, smallBytes) }

//go:noinline
func siteMiddle(i int) { sink[i&63] = make([]byte, middleBytes) }

//go:noinline
func siteLarge(i int) { sink[i&63] = make([]byte, largeBytes) }

//go:noinline
func siteKept() { kept = append(kept, make([]byte, keptBytes)) }

// On a new stack that has to grow, now and then in the allocator itself.
//
//go:noinline
func siteDeep(depth int, i int) int {
	if depth == 0 {
		sink[i&63] = make([]byte, deepBytes)
		return i
	}
	var room [2]int
	room[i&1] = siteDeep(depth-1, i)
	return room[i&1]
}

func number(index int, usual int) int {
	if len(os.Args) <= index {
		return usual
	}
	value, err := strconv.Atoi(os.Args[index])
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	wait, scale := number(1, 1), number(2, 1000)
	runtime.MemProfileRate = number(3, runtime.MemProfileRate)
	kept = make([][]byte, 0, scale)
	done := make(chan int)
	time.Sleep(time.Duration(wait) * time.Second)
	for i := 0; i < scale; i++ {
		for j := 0; j < 200; j++ {
			siteMiddle(j)
			siteSmall(j)
		}
		siteLarge(i)
		siteKept()
		if foreign != nil {
			foreign()
		}
		go func() { done <- siteDeep(i%200, i) }()
		<-done
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	clear := sink[:]
	for i := range clear {
		clear[i] = nil
	}
	// Two collections: the first one marks, the second one ends its sweep.
	runtime.GC()
	runtime.GC()
	time.Sleep(500 * time.Millisecond)
	fmt.Printf("{\"siteSmall_count\":%d,\"siteSmall_bytes\":%d,", scale*200, scale*200*smallBytes)
	fmt.Printf("\"siteMiddle_count\":%d,\"siteMiddle_bytes\":%d,", scale*200, scale*200*middleBytes)
	fmt.Printf("\"siteLarge_count\":%d,\"siteLarge_bytes\":%d,", scale, scale*largeBytes)
	fmt.Printf("\"siteDeep_count\":%d,\"siteDeep_bytes\":%d,", scale, scale*deepBytes)
	fmt.Printf("\"siteKept_count\":%d,\"siteKept_bytes\":%d}\n", scale, len(kept)*keptBytes)
}
