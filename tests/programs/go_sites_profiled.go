package main

import (
	"os"
	"runtime/pprof"
)

// A program that could ask for a heap profile has it sampled by Go.
func init() {
	if len(os.Args) > 4 {
		file, err := os.Create(os.Args[4])
		if err != nil {
			panic(err)
		}
		defer file.Close()
		pprof.Lookup("allocs").WriteTo(file, 0)
	}
}
