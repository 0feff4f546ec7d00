package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// rules say where a change belongs: the first section whose expression matches its title takes
// it; the last section may have none, and takes the rest. Without that, the rest is left out.
type rules struct {
	Sections []sectionRule `json:"sections"`
	Ticket   ticketRule    `json:"ticket"`
	Strip    expression    `json:"strip"` // what is cut off the titles, such as "fix: "
}

type sectionRule struct {
	Title string     `json:"title"`
	Match expression `json:"match"`
}

type ticketRule struct {
	Match expression `json:"match"`
	URL   string     `json:"url"` // $0 stands for the ticket's number
}

type expression struct{ *regexp.Regexp }

func (e *expression) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return err
	}
	compiled, err := regexp.Compile(text)
	e.Regexp = compiled
	return err
}

func readRules(config string) (rules, error) {
	var r rules
	if err := json.Unmarshal([]byte(config), &r); err != nil {
		return r, err
	}
	if len(r.Sections) == 0 {
		return r, errors.New(`needs sections, such as [{"title": "Fixes", "match": "^fix"}]`)
	}
	for i, s := range r.Sections {
		if s.Title == "" || (s.Match.Regexp == nil && i < len(r.Sections)-1) {
			return r, fmt.Errorf("section %d needs a title and, unless it is the last, a match", i)
		}
	}
	return r, nil
}

type notes struct {
	Version, Date string
	Sections      []section
	Authors       []string
	tickets       []string
}

type section struct {
	Title   string
	Changes []change
}

func (r rules) sort(release release) notes {
	n := notes{Version: release.Version, Date: release.Date, Authors: []string{}, tickets: []string{}}
	taken := make([][]change, len(r.Sections))
	for _, c := range release.Changes {
		at := slices.IndexFunc(r.Sections, func(s sectionRule) bool {
			return s.Match.Regexp == nil || s.Match.MatchString(c.Title)
		})
		if at < 0 {
			continue
		}
		taken[at] = append(taken[at], r.prepare(c, &n))
	}
	for i, changes := range taken {
		if len(changes) > 0 {
			n.Sections = append(n.Sections, section{r.Sections[i].Title, changes})
		}
	}
	n.Authors, n.tickets = unique(n.Authors), unique(n.tickets)
	return n
}

// prepare cuts and links one change's texts, and notes its author and tickets.
func (r rules) prepare(c change, n *notes) change {
	if r.Strip.Regexp != nil {
		c.Title = strings.TrimSpace(r.Strip.ReplaceAllString(c.Title, ""))
	}
	if c.Author != "" {
		n.Authors = append(n.Authors, c.Author)
	}
	if r.Ticket.Match.Regexp != nil {
		c.Title, c.Body = r.link(c.Title, n), r.link(c.Body, n)
	}
	return c
}

func (r rules) link(text string, n *notes) string {
	return r.Ticket.Match.ReplaceAllStringFunc(text, func(ticket string) string {
		n.tickets = append(n.tickets, ticket)
		return fmt.Sprintf("[%s](%s)", ticket, strings.ReplaceAll(r.Ticket.URL, "$0", ticket))
	})
}

func unique(names []string) []string {
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.ToLower(a), strings.ToLower(b)), cmp.Compare(a, b))
	})
	return slices.Compact(names)
}

func (n notes) counts() map[string]int {
	counts := make(map[string]int, len(n.Sections))
	for _, s := range n.Sections {
		counts[s.Title] = len(s.Changes)
	}
	return counts
}
