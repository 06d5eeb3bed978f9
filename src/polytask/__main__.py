"""`python -m polytask`."""

from polytask.cli.app import main

if __name__ == "__main__":
    main()
