"""What executor_service keeps in PostgreSQL, a class for each noun, every statement beside the method that runs it.

Each takes where its statements run: `Drafts(database)`, each a transaction of its own, or `Drafts(connection)`, within
the transaction that the caller entered.
"""
