"""Pure decisions: values and now in, decision out."""
