module cre

go 1.24
