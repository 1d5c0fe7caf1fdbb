"""The routes, by who asks: people (pages), programs (api), machines (ops), open pages (feed)."""
