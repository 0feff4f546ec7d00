module sluice.dev/examples/text-report

go 1.24
