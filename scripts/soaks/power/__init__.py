"""The two sides of a power cut: who writes states down, and who looks for them afterwards."""
