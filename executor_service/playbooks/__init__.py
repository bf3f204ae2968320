"""What a playbook is: its affected products, their scope, and the rules for suggestions. Pure code."""
