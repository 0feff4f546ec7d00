// Price-alert says whether an event's price is outside the limits that its config gives for the
// symbol. Prices are compared as decimals, so that 0.1 is 0.1.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strings"
)

// decimal keeps the text as it came, for the result, beside the exact value, for comparing.
type decimal struct {
	text  string
	value *big.Rat
}

func (d *decimal) UnmarshalJSON(raw []byte) error {
	d.text = strings.Trim(string(raw), `"`)
	// A Rat would also take 1/3, 0x10, and 1e999999999, which it would expand to all its digits.
	if strings.Trim(d.text, "+-.0123456789") != "" {
		return fmt.Errorf("%s is no plain decimal number", raw)
	}
	value, ok := new(big.Rat).SetString(d.text)
	if !ok {
		return fmt.Errorf("%s is no plain decimal number", raw)
	}
	d.value = value
	return nil
}

type limits struct {
	Below *decimal `json:"below"`
	Above *decimal `json:"above"`
}

type event struct {
	ID   string `json:"id"`
	Data *struct {
		Symbol string   `json:"symbol"`
		Price  *decimal `json:"price"`
	} `json:"data"`
}

type result struct {
	Alert  bool   `json:"alert"`
	Symbol string `json:"symbol"`
	Price  string `json:"price"`
	Reason string `json:"reason"`
}

func main() {
	if err := run(os.Stdin, os.Stdout, os.Getenv("SLUICE_CONFIG")); err != nil {
		fmt.Fprintln(os.Stderr, "price-alert:", err)
		os.Exit(2)
	}
}

func run(in io.Reader, out io.Writer, config string) error {
	var symbols map[string]limits
	if err := json.Unmarshal([]byte(config), &symbols); err != nil {
		return fmt.Errorf("the config is not a JSON object of limits by symbol: %w", err)
	}
	var e event
	if err := json.NewDecoder(in).Decode(&e); err != nil {
		return fmt.Errorf("the event: %w", err)
	}
	if e.Data == nil || e.Data.Price == nil || e.Data.Symbol == "" {
		return errors.New(`the event's data needs a symbol and a price, ` +
			`such as {"symbol": "SLUICE", "price": "97.10"}`)
	}
	bounds, known := symbols[e.Data.Symbol]
	if !known {
		return fmt.Errorf("the config has no limits for the symbol %q", e.Data.Symbol)
	}
	verdict := judge(e.Data.Price, bounds)
	verdict.Symbol = e.Data.Symbol
	fmt.Fprintf(os.Stderr, "event %s: %s\n", e.ID, verdict.Reason)
	return json.NewEncoder(out).Encode(verdict)
}

func judge(price *decimal, bounds limits) result {
	switch {
	case bounds.Below != nil && price.value.Cmp(bounds.Below.value) < 0:
		return result{Alert: true, Price: price.text, Reason: "below " + bounds.Below.text}
	case bounds.Above != nil && price.value.Cmp(bounds.Above.value) > 0:
		return result{Alert: true, Price: price.text, Reason: "above " + bounds.Above.text}
	default:
		return result{Price: price.text, Reason: "within the limits"}
	}
}
