"""Programs and handlers that tests run in processes of their own."""
