"""The command `hf-seqrl`: one small module a verb."""
