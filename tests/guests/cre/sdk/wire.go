// Package sdk is how our own guests speak the CRE interface: no SDK, only its imports and messages.
package sdk

import (
	"encoding/binary"
	"math"
)

// Writing and reading of protobuf's wire format, as little of it as the messages need.

// Message is a message that grows; fields are written in the order of the calls.
type Message []byte

func (m Message) key(field, kind int) Message { return binary.AppendUvarint(m, uint64(field<<3|kind)) }

// Uint writes a varint, of any number that is not negative, or of a bool.
func (m Message) Uint(field int, value uint64) Message {
	return binary.AppendUvarint(m.key(field, 0), value)
}

// Int writes an int32 or int64.
func (m Message) Int(field int, value int64) Message { return m.Uint(field, uint64(value)) }

// Double writes a double.
func (m Message) Double(field int, value float64) Message {
	return binary.LittleEndian.AppendUint64(m.key(field, 1), math.Float64bits(value))
}

// Bytes writes bytes or a message.
func (m Message) Bytes(field int, value []byte) Message {
	return append(binary.AppendUvarint(m.key(field, 2), uint64(len(value))), value...)
}

// String writes a text.
func (m Message) String(field int, value string) Message { return m.Bytes(field, []byte(value)) }

// Field is one field of a message that was read.
type Field struct {
	Number int
	Uint   uint64 // of a varint, or the bits of a fixed number
	Bytes  []byte
}

// Int is a field's signed number.
func (f Field) Int() int64 { return int64(f.Uint) }

// Double is a field's floating number.
func (f Field) Double() float64 { return math.Float64frombits(f.Uint) }

// Read takes a message apart; it panics at what is none, which no host sends.
func Read(data []byte) []Field {
	var fields []Field
	for len(data) > 0 {
		key, n := binary.Uvarint(data)
		data = data[n:]
		field := Field{Number: int(key >> 3)}
		switch key & 7 {
		case 0:
			field.Uint, n = binary.Uvarint(data)
			data = data[n:]
		case 1:
			field.Uint, data = binary.LittleEndian.Uint64(data), data[8:]
		case 2:
			size, n := binary.Uvarint(data)
			field.Bytes, data = data[n:n+int(size)], data[n+int(size):]
		default:
			panic("an unknown wire type")
		}
		fields = append(fields, field)
	}
	return fields
}

// Last is the last field of a number, or an empty one: what protobuf makes of it.
func Last(data []byte, number int) Field {
	found := Field{}
	for _, field := range Read(data) {
		if field.Number == number {
			found = field
		}
	}
	return found
}

// All are the fields of a number.
func All(data []byte, number int) [][]byte {
	var found [][]byte
	for _, field := range Read(data) {
		if field.Number == number {
			found = append(found, field.Bytes)
		}
	}
	return found
}

// Any is a google.protobuf.Any of the message named.
func Any(name string, value []byte) Message {
	return Message(nil).String(1, "type.googleapis.com/"+name).Bytes(2, value)
}
