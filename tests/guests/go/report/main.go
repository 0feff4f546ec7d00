// A workflow of the size that real ones have: JSON in, sorted and hashed, JSON out.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"time"
)

type reading struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

type event struct {
	Data struct {
		Act      string    `json:"act"`
		Readings []reading `json:"readings"`
	} `json:"data"`
}

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	var asked event
	if err := json.Unmarshal(input, &asked); err != nil {
		fmt.Fprintln(os.Stderr, "the event is no JSON:", err)
		os.Exit(3)
	}
	switch asked.Data.Act {
	case "rest": // a timer of the runtime, which polls, while another goroutine works
		done := make(chan string)
		go func() { time.Sleep(20 * time.Millisecond); done <- "rested" }()
		select {
		case word := <-done:
			fmt.Print(word)
		case <-time.After(time.Minute):
			fmt.Print("late")
		}
	case "forever":
		select {}
	case "hoard":
		var kept [][]byte
		for {
			kept = append(kept, make([]byte, 1<<20))
			fmt.Fprintln(os.Stderr, len(kept))
		}
	default:
		report(asked.Data.Readings, input)
	}
}

func report(readings []reading, input []byte) {
	sort.Slice(readings, func(i, j int) bool { return readings[i].Value > readings[j].Value })
	sum := fmt.Sprintf("%x", sha256.Sum256(input))
	out, err := json.Marshal(map[string]any{"sorted": readings, "sha256": sum})
	if err != nil {
		panic(err)
	}
	fmt.Println(string(out))
}
