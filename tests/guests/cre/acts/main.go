// A guest of many acts: it does what the lines of its script say, and answers with what came of
// each. The script of a Subscribe is its config, that of a trigger and of a pre-hook its payload.
package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"cre/sdk"
)

//go:wasmimport wasi_snapshot_preview1 clock_time_get
func clockTimeGet(id int32, precision int64, at int32) int32

//go:wasmimport wasi_snapshot_preview1 poll_oneoff
func pollOneoff(subscriptions, events, n, nevents int32) int32

func memoryBytes() int64 // memory.s

// What raw numbers may point into: "@5" is its sixth byte.
var ground = make([]byte, 1<<16)

var asked sdk.Request

func main() {
	asked = sdk.Asked()
	script := string(sdk.Last(asked.Payload, 2).Bytes)
	if asked.Subscribe {
		script = string(asked.Config)
	}
	var said []string
	for _, line := range strings.Split(script, "\n") {
		name, rest, _ := strings.Cut(line, " ")
		// A payload is the script of both: some lines are for the pre-hook, and others not.
		if name == "hook" && asked.PreHook {
			name, rest, _ = strings.Cut(rest, " ")
		} else if asked.PreHook != (name == "restrict") && name != "mode" {
			continue
		}
		if act, known := acts[name]; known {
			said = append(said, act(strings.Fields(rest), rest))
		}
	}
	answer(strings.Join(said, "\n"))
	os.Exit(0)
}

func answer(text string) {
	switch {
	case asked.Subscribe:
		sdk.Subscribe(sdk.Subscription("basic-trigger@1.0.0", "Trigger", sdk.Any("said", []byte(text))))
	case !asked.PreHook:
		sdk.Value(sdk.Text(text))
	}
}

type act func(words []string, rest string) string

var acts map[string]act

func init() { // not where it is declared: some acts do others
	acts = map[string]act{
		"config":  func([]string, string) string { return string(asked.Config) },
		"id":      func([]string, string) string { return fmt.Sprint(asked.ID) },
		"maximum": func([]string, string) string { return fmt.Sprint(asked.MaxResponseSize) },
		"args":    func([]string, string) string { return fmt.Sprint(len(os.Args), " ", os.Args[0]) },
		"world":   world,
		"mode":    func(w []string, _ string) string { sdk.SwitchModes(int32(number(w[0]))); return "" },
		"seed":    func(w []string, _ string) string { return fmt.Sprint(sdk.RandomSeed(int32(number(w[0])))) },
		"now":     func([]string, string) string { return fmt.Sprint(sdk.Now()) },
		"clock":   clock,
		"sleep":   sleep,
		"poll":    poll,
		"log":     func(_ []string, rest string) string { sdk.Log(rest); return "" },
		"logs":    logs,
		"print":   func(_ []string, rest string) string { fmt.Fprintln(os.Stderr, rest); return "" },
		"call":    call,
		"await":   wait,
		"secrets": secrets,
		"reveal":  reveal,
		"metric":  metric,
		"fail":    func(_ []string, rest string) string { end(sdk.Fail(rest)); return "" },
		"big": func(w []string, _ string) string {
			sdk.Value(sdk.Text(strings.Repeat("x", int(number(w[0])))))
			return ""
		},
		"send":  func(w []string, _ string) string { return fmt.Sprint(sdk.Send(unhex(w[0]))) },
		"done":  func([]string, string) string { os.Exit(0); return "" },
		"exit":  func(w []string, _ string) string { os.Exit(int(number(w[0]))); return "" },
		"panic": func(_ []string, rest string) string { panic(rest) },
		"loop": func([]string, string) string {
			for {
				ground[0]++
			}
		},
		"hoard":     hoard,
		"subscribe": subscribe,
		"restrict":  func(w []string, _ string) string { return fmt.Sprint(sdk.Send(sdk.Message(nil).Bytes(4, unhex(w[0])))) },
		"put":       func(w []string, _ string) string { copy(ground[number(w[0]):], unhex(w[1])); return "" },
		"get":       func(w []string, _ string) string { return string(ground[number(w[0]):][:number(w[1])]) },
		"raw":       raw,
		"work":      work,
	}
}

func end(int32) { os.Exit(0) }

func number(word string) int64 {
	base := int64(0)
	if at, found := strings.CutPrefix(word, "@"); found {
		base, word = int64(sdk.At(ground)), at
	}
	if at, found := strings.CutPrefix(word, "$"); found { // from the end of memory
		base, word = memoryBytes(), at
	}
	n, err := strconv.ParseInt(word, 0, 64)
	if err != nil {
		panic(err)
	}
	return base + n
}

func unhex(word string) []byte {
	data, err := hex.DecodeString(word)
	if err != nil {
		panic(err)
	}
	return data
}

func world([]string, string) string {
	_, err := os.ReadDir("/")
	in, _ := io.ReadAll(os.Stdin)
	fmt.Println("to nobody")
	return fmt.Sprint(len(os.Environ()), " ", len(in), " ", err != nil)
}

func clock(words []string, _ string) string {
	out := make([]byte, 8)
	errno := clockTimeGet(int32(number(words[0])), 0, sdk.At(out))
	return fmt.Sprint(errno, " ", le(out))
}

func le(data []byte) int64 {
	var n uint64
	for i := range data {
		n |= uint64(data[i]) << (8 * i)
	}
	return int64(n)
}

func sleep(words []string, _ string) string {
	duration, err := time.ParseDuration(words[0])
	if err != nil {
		panic(err)
	}
	time.Sleep(duration)
	return ""
}

// poll subscribes to each of "kind:timeout:flags"; it says the answer and the events' errors.
func poll(words []string, _ string) string {
	subscriptions, events := make([]byte, 48*len(words)+1), make([]byte, 32*len(words)+1)
	for i, word := range words {
		parts := strings.Split(word, ":")
		one := subscriptions[48*i:]
		one[0], one[8] = byte(i), byte(number(parts[0]))
		timeout := number(parts[1])
		for n := range 8 {
			one[24+n] = byte(timeout >> (8 * n))
		}
		one[40] = byte(number(parts[2]))
	}
	count := make([]byte, 4)
	errno := pollOneoff(sdk.At(subscriptions), sdk.At(events), int32(len(words)), sdk.At(count))
	said := fmt.Sprint(errno, " ", le(count))
	for i := range words {
		event := events[32*i:]
		said += fmt.Sprint(" ", event[0], ":", event[8], ":", le(event[10:14]))
	}
	return said
}

func logs(words []string, _ string) string {
	for range number(words[0]) {
		sdk.Log(strings.Repeat("l", int(number(words[1]))))
	}
	return ""
}

// call takes an id of the capability, a method, a callback id and a payload.
func call(words []string, _ string) string {
	var payload []byte
	if len(words) > 3 {
		payload = sdk.Any("test.Payload", []byte(words[3]))
	}
	return sdk.Call(words[0], words[1], payload, int32(number(words[2])))
}

func ids(words []string) (found []int32) {
	for _, word := range words {
		found = append(found, int32(number(word)))
	}
	return found
}

// wait takes the size of the buffer (0: as much as the host says) and callback ids.
func wait(words []string, _ string) string {
	answers, failed := sdk.Await(room(words[0]), ids(words[1:])...)
	if failed != "" {
		return failed
	}
	return each(answers, func(response []byte) string {
		if text := sdk.Last(response, 2).Bytes; text != nil {
			return "error " + string(text)
		}
		return string(sdk.Last(sdk.Last(response, 1).Bytes, 2).Bytes)
	})
}

func room(word string) uint64 {
	if most := uint64(number(word)); most > 0 {
		return most
	}
	return asked.MaxResponseSize
}

func each(answers map[int32][]byte, said func([]byte) string) string {
	var lines []string
	for id, response := range answers {
		lines = append(lines, fmt.Sprint(id, "=", said(response)))
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

// secrets takes a callback id and secrets as "id/namespace".
func secrets(words []string, _ string) string {
	var wanted [][2]string
	for _, word := range words[1:] {
		id, namespace, _ := strings.Cut(word, "/")
		wanted = append(wanted, [2]string{id, namespace})
	}
	return sdk.GetSecrets(int32(number(words[0])), wanted...)
}

func reveal(words []string, _ string) string {
	answers, failed := sdk.AwaitSecrets(room(words[0]), ids(words[1:])...)
	if failed != "" {
		return failed
	}
	return each(answers, func(responses []byte) string {
		var said []string
		for _, response := range sdk.All(responses, 1) {
			if denied := sdk.Last(response, 2).Bytes; denied != nil {
				said = append(said, "error "+string(sdk.Last(denied, 4).Bytes))
				continue
			}
			said = append(said, string(sdk.Last(sdk.Last(response, 1).Bytes, 4).Bytes))
		}
		return strings.Join(said, ",")
	})
}

// metric takes the lengths of its name, and as many labels as there are lengths of their values.
func metric(words []string, _ string) string {
	message := sdk.Message(nil).String(5, strings.Repeat("n", int(number(words[0])))).Double(6, 1.5).Int(7, 2)
	for i, word := range words[1:] {
		value := strings.Repeat("v", int(number(word)))
		label := sdk.Message(nil).String(1, fmt.Sprint("label", i)).String(2, value)
		message = message.Bytes(8, label)
	}
	return fmt.Sprint(sdk.Metric(message))
}

func hoard([]string, string) string {
	var kept [][]byte
	for {
		kept = append(kept, make([]byte, 1<<20))
		kept[len(kept)-1][0] = 1
	}
}

// subscribe takes subscriptions as "id:method:flags"; flag p is a pre-hook, t a TEE.
func subscribe(words []string, _ string) string {
	var wanted []sdk.Message
	for _, word := range words {
		parts := strings.Split(word, ":")
		one := sdk.Subscription(parts[0], parts[1], sdk.Any("test.Config", []byte("c")))
		if strings.Contains(parts[2], "t") {
			one = one.Bytes(4, sdk.Message(nil).Bytes(1, sdk.Message(nil).Bytes(1, nil)))
		}
		if strings.Contains(parts[2], "p") {
			one = one.Int(5, 1)
		}
		wanted = append(wanted, one)
	}
	sdk.Subscribe(wanted...)
	os.Exit(0)
	return ""
}

// raw calls a function of the host with any numbers.
func raw(words []string, _ string) string {
	n := []int32{0, 0, 0, 0}
	for i, word := range words[1:] {
		n[i] = int32(number(word))
	}
	switch words[0] {
	case "send_response":
		return fmt.Sprint(sdk.SendResponseRaw(n[0], n[1]))
	case "call_capability":
		return fmt.Sprint(sdk.CallCapabilityRaw(n[0], n[1]))
	case "await_capabilities":
		return fmt.Sprint(sdk.AwaitCapabilitiesRaw(n[0], n[1], n[2], n[3]))
	case "get_secrets":
		return fmt.Sprint(sdk.GetSecretsRaw(n[0], n[1], n[2], n[3]))
	case "await_secrets":
		return fmt.Sprint(sdk.AwaitSecretsRaw(n[0], n[1], n[2], n[3]))
	case "log":
		sdk.LogRaw(n[0], n[1])
	case "emit_metric":
		return fmt.Sprint(sdk.EmitMetricRaw(n[0], n[1]))
	case "switch_modes":
		sdk.SwitchModes(n[0])
	case "random_seed":
		return fmt.Sprint(sdk.RandomSeed(n[0]))
	case "now":
		return fmt.Sprint(sdk.NowRaw(n[0]))
	case "clock_time_get":
		return fmt.Sprint(clockTimeGet(n[0], int64(n[1]), n[2]))
	case "poll_oneoff":
		return fmt.Sprint(pollOneoff(n[0], n[1], n[2], n[3]))
	default:
		panic(words[0])
	}
	return ""
}

// work keeps the CPU busy for so many rounds.
func work(words []string, _ string) string {
	sum := uint64(14695981039346656037)
	for i := range number(words[0]) {
		sum = (sum ^ uint64(i)) * 1099511628211
	}
	return fmt.Sprint(sum)
}
