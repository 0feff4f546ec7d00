package main

import (
	"bytes"
	_ "embed"
	htmltemplate "html/template"
	"strings"
	texttemplate "text/template"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
)

//go:embed notes.md.tmpl
var markdownTemplate string

//go:embed page.html.tmpl
var pageTemplate string

// Raw HTML in a change's body is left out, which is goldmark's way unless told otherwise: the page
// is read by others than those who write changes.
var markdown = goldmark.New(
	goldmark.WithExtensions(extension.GFM, extension.Footnote, extension.DefinitionList),
	goldmark.WithParserOptions(parser.WithAutoHeadingID()),
)

type heading struct{ ID, Text string }

func renderMarkdown(n notes) (string, error) {
	indent := func(body string) string {
		return strings.ReplaceAll(strings.TrimSpace(body), "\n", "\n  ")
	}
	functions := texttemplate.FuncMap{"indent": indent, "join": strings.Join}
	page, err := texttemplate.New("notes.md").Funcs(functions).Parse(markdownTemplate)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = page.Execute(&out, n)
	return out.String(), err
}

func renderHTML(n notes, source string) (string, error) {
	raw := []byte(source)
	document := markdown.Parser().Parse(text.NewReader(raw))
	var body bytes.Buffer
	if err := markdown.Renderer().Render(&body, raw, document); err != nil {
		return "", err
	}
	page, err := htmltemplate.New("page.html").Parse(pageTemplate)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = page.Execute(&out, map[string]any{
		"Version":  n.Version,
		"Date":     n.Date,
		"Contents": contents(document, raw),
		"Body":     htmltemplate.HTML(body.String()), // goldmark's output, so already safe
	})
	return out.String(), err
}

// contents returns the headings of the second level in their order.
func contents(document ast.Node, source []byte) []heading {
	var found []heading
	for node := document.FirstChild(); node != nil; node = node.NextSibling() {
		h, ok := node.(*ast.Heading)
		if !ok || h.Level != 2 {
			continue
		}
		id, _ := h.AttributeString("id")
		raw, _ := id.([]byte)
		found = append(found, heading{string(raw), string(h.Lines().Value(source))})
	}
	return found
}
