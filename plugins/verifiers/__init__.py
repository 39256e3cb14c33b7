"""Verifiers: how right an answer is, compared with right answers, a schema, or in the opinion of a judge."""
