"""Who watches the others: audits, evidence, witnesses, and the books of every round."""
