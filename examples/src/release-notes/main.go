// Release-notes turns the merged changes of a release into one HTML page and its Markdown: sorts
// them into sections by rules on their titles, links ticket numbers, renders their bodies (GitHub's
// Markdown, sanitised), and makes a table of contents and the list of authors.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

type event struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	Data *release  `json:"data"`
}

type release struct {
	Version string   `json:"version"`
	Date    string   `json:"date"`
	Changes []change `json:"changes"`
}

type change struct {
	Title  string `json:"title"`
	Body   string `json:"body"`
	Author string `json:"author"`
}

type result struct {
	Version  string         `json:"version"`
	Counts   map[string]int `json:"counts"`
	Tickets  []string       `json:"tickets"`
	Authors  []string       `json:"authors"`
	Markdown string         `json:"markdown"`
	HTML     string         `json:"html"`
}

func main() {
	if err := run(os.Stdin, os.Stdout, os.Getenv("SLUICE_CONFIG")); err != nil {
		fmt.Fprintln(os.Stderr, "release-notes:", err)
		os.Exit(2)
	}
}

func run(in io.Reader, out io.Writer, config string) error {
	rules, err := readRules(config)
	if err != nil {
		return fmt.Errorf("the config: %w", err)
	}
	var e event
	if err := json.NewDecoder(in).Decode(&e); err != nil {
		return fmt.Errorf("the event: %w", err)
	}
	if e.Data == nil || e.Data.Version == "" || len(e.Data.Changes) == 0 {
		return errors.New(`the event's data needs a version and changes, ` +
			`such as {"version": "1.2.0", "changes": [{"title": "fix: …", "author": "ada"}]}`)
	}
	if e.Data.Date == "" {
		e.Data.Date = e.Time.UTC().Format(time.DateOnly)
	}
	notes := rules.sort(*e.Data)
	answer := result{Version: notes.Version, Counts: notes.counts(), Tickets: notes.tickets,
		Authors: notes.Authors}
	if answer.Markdown, err = renderMarkdown(notes); err != nil {
		return err
	}
	if answer.HTML, err = renderHTML(notes, answer.Markdown); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "event %s: %d changes in %d sections, %d bytes of HTML\n",
		e.ID, len(e.Data.Changes), len(notes.Sections), len(answer.HTML))
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(answer)
}
