// Text-report renders an event's data as plain text. Its config is the template, in the language
// of Go's text/template; -width, an argument, says how many columns `wrap` and `rule` fill.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"
)

type event struct {
	ID     string         `json:"id"`
	Source string         `json:"source"`
	Time   time.Time      `json:"time"`
	Data   map[string]any `json:"data"`
}

func main() {
	width := flag.Int("width", 72, "columns of the report")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, os.Getenv("SLUICE_CONFIG"), *width); err != nil {
		fmt.Fprintln(os.Stderr, "text-report:", err)
		os.Exit(2)
	}
}

func run(in io.Reader, out io.Writer, config string, width int) error {
	if config == "" {
		return errors.New("the config is empty; it should be the report's template")
	}
	if width < 20 || width > 500 {
		return fmt.Errorf("-width is %d; give 20 to 500", width)
	}
	report, err := template.New("config").
		Option("missingkey=error"). // a typo in a template should fail, not print <no value>
		Funcs(functions(width)).
		Parse(config)
	if err != nil {
		return err
	}
	var e event
	if err := json.NewDecoder(in).Decode(&e); err != nil {
		return fmt.Errorf("the event: %w", err)
	}
	if e.Data == nil {
		return errors.New("the event has no data; give the object that the template reports on")
	}
	var text strings.Builder // so that a report that fails half-way writes nothing
	if err := report.Execute(&text, e); err != nil {
		return err
	}
	_, err = io.WriteString(out, text.String())
	return err
}

func functions(width int) template.FuncMap {
	return template.FuncMap{
		"env":   os.Getenv,
		"upper": strings.ToUpper,
		"rule":  func(character string) string { return strings.Repeat(character, width) },
		"left":  func(columns int, value any) string { return pad(columns, value, false) },
		"right": func(columns int, value any) string { return pad(columns, value, true) },
		"bar":   bar,
		"sum":   sum,
		"wrap":  func(text string) string { return wrap(text, width) },
		"date":  func(layout string, at time.Time) string { return at.UTC().Format(layout) },
	}
}

func pad(columns int, value any, right bool) string {
	text := fmt.Sprint(value)
	space := strings.Repeat(" ", max(0, columns-utf8.RuneCountInString(text)))
	if right {
		return space + text
	}
	return text + space
}

// bar draws value as a share of most in a number of columns.
func bar(columns int, value, most float64) string {
	filled := 0
	if most > 0 {
		filled = int(float64(columns)*min(max(value/most, 0), 1) + 0.5)
	}
	return strings.Repeat("#", filled) + strings.Repeat(".", columns-filled)
}

// sum adds the field of that name over the rows.
func sum(field string, rows []any) (float64, error) {
	total := 0.0
	for i, row := range rows {
		object, _ := row.(map[string]any)
		value, ok := object[field].(float64)
		if !ok {
			return 0, fmt.Errorf("row %d has no number %q", i, field)
		}
		total += value
	}
	return total, nil
}

func wrap(text string, width int) string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}
