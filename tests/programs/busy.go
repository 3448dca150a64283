// Goroutines, a map and garbage until it is killed.
package main

import (
	"fmt"
	"sort"
	"strings"
)

func recurse(depth int) int {
	if depth == 0 {
		return 1
	}
	return recurse(depth-1) + recurse(depth/2)
}

func work(id int, results chan<- int) {
	for {
		counts := map[string]int{}
		for i := 0; i < 1000; i++ {
			counts[fmt.Sprintf("%d-%d", id, i%100)] += recurse(12)
		}
		names := make([]string, 0, len(counts))
		for name := range counts {
			names = append(names, strings.ToUpper(name))
		}
		sort.Strings(names)
		results <- len(names)
	}
}

func main() {
	results := make(chan int)
	for id := 0; id < 4; id++ {
		go work(id, results)
	}
	total := 0
	for count := range results {
		total += count
	}
	fmt.Println(total)
}
