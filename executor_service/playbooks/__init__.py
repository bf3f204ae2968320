"""What a playbook is: its affected products, their scope, the rules for suggestions, the quota. Pure: no I/O, no
clock, and no import of another room."""
