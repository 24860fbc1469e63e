"""The model families, one folder each; `registry` finds them, `actor` and `processor` hold what they share."""
