package sdk

import (
	"encoding/base64"
	"fmt"
	"os"
	"runtime"
	"unsafe"
)

//go:wasmimport env version_v2_sluice
func versionV2()

//go:wasmimport env send_response
func SendResponseRaw(at, size int32) int32

//go:wasmimport env call_capability
func CallCapabilityRaw(at, size int32) int64

//go:wasmimport env await_capabilities
func AwaitCapabilitiesRaw(at, size, out, most int32) int64

//go:wasmimport env get_secrets
func GetSecretsRaw(at, size, out, most int32) int64

//go:wasmimport env await_secrets
func AwaitSecretsRaw(at, size, out, most int32) int64

//go:wasmimport env log
func LogRaw(at, size int32)

//go:wasmimport env emit_metric
func EmitMetricRaw(at, size int32) int32

//go:wasmimport env switch_modes
func SwitchModes(mode int32)

//go:wasmimport env random_seed
func RandomSeed(mode int32) int64

//go:wasmimport env now
func NowRaw(at int32) int32

func init() { versionV2() } // so that the linker keeps the import

// The modes of SwitchModes and RandomSeed.
const (
	Unspecified = iota
	DON
	Node
)

// At is where data begins; 0 for none.
func At(data []byte) int32 { return int32(uintptr(unsafe.Pointer(unsafe.SliceData(data)))) }

func size(data []byte) int32 { return int32(len(data)) }

// Request is what a run was started with.
type Request struct {
	Config          []byte
	Subscribe       bool
	Trigger         bool
	PreHook         bool
	ID              uint64 // of the trigger
	Payload         []byte // its Any
	MaxResponseSize uint64
}

// Asked reads the request from the arguments.
func Asked() Request {
	raw, err := base64.StdEncoding.DecodeString(os.Args[1])
	if err != nil {
		panic(err)
	}
	asked := Request{}
	for _, field := range Read(raw) {
		switch field.Number {
		case 1:
			asked.Config = field.Bytes
		case 2:
			asked.Subscribe = true
		case 3, 5:
			asked.Trigger, asked.PreHook = field.Number == 3, field.Number == 5
			asked.ID = Last(field.Bytes, 1).Uint
			asked.Payload = Last(field.Bytes, 2).Bytes
		case 4:
			asked.MaxResponseSize = field.Uint
		}
	}
	return asked
}

// Send sends an ExecutionResult.
func Send(result []byte) int32 {
	defer runtime.KeepAlive(result)
	return SendResponseRaw(At(result), size(result))
}

// Value sends a Value as the result.
func Value(value []byte) int32 { return Send(Message(nil).Bytes(1, value)) }

// Text is a Value.
func Text(text string) Message { return Message(nil).String(1, text) }

// Fail sends an error as the result.
func Fail(text string) int32 { return Send(Message(nil).String(2, text)) }

// Subscription is a TriggerSubscription.
func Subscription(id, method string, payload []byte) Message {
	return Message(nil).String(1, id).Bytes(2, payload).String(3, method)
}

// Subscribe sends the subscriptions.
func Subscribe(subscriptions ...Message) int32 {
	request := Message(nil)
	for _, subscription := range subscriptions {
		request = request.Bytes(1, subscription)
	}
	return Send(Message(nil).Bytes(3, request))
}

// Log logs a line.
func Log(text string) {
	data := []byte(text)
	LogRaw(At(data), size(data))
	runtime.KeepAlive(data)
}

// Call starts a call of a capability; the text is empty where it was accepted.
func Call(id, method string, payload []byte, callback int32) string {
	request := Message(nil).String(1, id)
	if payload != nil {
		request = request.Bytes(2, payload)
	}
	request = request.String(3, method).Int(4, int64(callback))
	// The host writes its error over the request: there has to be room.
	buffer := make([]byte, max(len(request), 1))
	copy(buffer, request)
	return told(CallCapabilityRaw(At(buffer), size(buffer)), buffer)
}

// Await waits for the answers to calls: for each of the ids a CapabilityResponse, or an error.
func Await(most uint64, ids ...int32) (map[int32][]byte, string) {
	return await(AwaitCapabilitiesRaw, most, ids)
}

// GetSecrets starts to read secrets, each an id and a namespace.
func GetSecrets(callback int32, secrets ...[2]string) string {
	request := Message(nil)
	for _, secret := range secrets {
		request = request.Bytes(1, Message(nil).String(1, secret[0]).String(2, secret[1]))
	}
	request = request.Int(2, int64(callback))
	out := make([]byte, 1024)
	defer runtime.KeepAlive(request)
	return told(GetSecretsRaw(At(request), size(request), At(out), size(out)), out)
}

// AwaitSecrets waits for secrets: for each of the ids a SecretResponses, or an error.
func AwaitSecrets(most uint64, ids ...int32) (map[int32][]byte, string) {
	return await(AwaitSecretsRaw, most, ids)
}

func await(
	wait func(at, size, out, most int32) int64, most uint64, ids []int32,
) (map[int32][]byte, string) {
	packed := Message(nil)
	for _, id := range ids {
		packed = packed.Int(1, int64(id)) // one by one is as good as packed
	}
	out := make([]byte, most)
	defer runtime.KeepAlive(packed)
	n := wait(At(packed), size(packed), At(out), size(out))
	if n < 0 {
		return nil, told(n, out)
	}
	answers := map[int32][]byte{}
	for _, entry := range All(out[:n], 1) {
		answers[int32(Last(entry, 1).Uint)] = Last(entry, 2).Bytes
	}
	return answers, ""
}

func told(n int64, buffer []byte) string {
	switch {
	case n == 0:
		return ""
	case n < 0:
		return string(buffer[:-n])
	}
	return fmt.Sprint("answered with ", n)
}

// Now is the time of the mode, in nanoseconds.
func Now() int64 {
	out := make([]byte, 8)
	if errno := NowRaw(At(out)); errno != 0 {
		panic(errno)
	}
	var ns uint64
	for i := range out {
		ns |= uint64(out[i]) << (8 * i)
	}
	return int64(ns)
}

// Metric emits a WorkflowUserMetric.
func Metric(metric []byte) int32 {
	defer runtime.KeepAlive(metric)
	return EmitMetricRaw(At(metric), size(metric))
}
