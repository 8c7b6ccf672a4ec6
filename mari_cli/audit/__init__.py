"""What an attacker tries to bring forgotten data back: one attack a file."""
