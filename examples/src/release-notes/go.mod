module sluice.dev/examples/release-notes

go 1.24

require github.com/yuin/goldmark v1.8.7
