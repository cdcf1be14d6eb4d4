"""Who may see what: certificates, subjects, roles, classes of columns. What is not allowed is refused."""
