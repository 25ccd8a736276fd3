"""The tables of a build: one immutable DuckDB file.

Rows are written sorted by their first columns in row groups of 8,192.  Tables that are queried by latent also have an
index, through which DuckDB fetches single rows; a scan reads lists 2,048 rows at a time.  `latent` is the latent's
number, `token` a vocabulary id, `ctx` a context's number in the text, and `position` an absolute position in its
context (BOS is 0).  Activations are in unit-decoder units.

*Counted tokens* are the tokens that the statistics are about: every position of the text read except BOS.  BOS is
measured separately (`l0_hist.n_bos`, `l0_position` 0).

`meta` keys (JSON values): schema_version, duckdb_version, saescope_version, build_id, sae_id, model, site,
architecture, n_latents, d_model, k, theta, normalize, train_on_bos, bos_rule, weight_processing, decoder_norm
("unit"), text, text_fingerprint, tokens (counted), contexts, documents, context_length, created, seconds, settings
(IndexSettings), median_resid_norm, hist_low and hist_edges (lower end, and upper edges of the activation histogram's
log-spaced bins, shared by all latents; the last bin is open), logit_edges (41 edges of the logit histogram; the outer
bins are open), bands ([{"band", "name", "q_low", "q_high"}]), near (the share of the pre-activation needed to fire
that a near miss may lack; null if none were kept), company_tokens (firings of a latent from which co-firing is
estimated), map ("PCA" or "UMAP" of the decoder rows), bos_l0 (the most frequent L0 of BOS), bos_token (id), command
(that recomputes the build).
"""

SCHEMA_VERSION = 3
STORAGE_VERSION = "v1.5.0"
ROW_GROUP = 8192
HIST_BINS = 64
LOGIT_BINS = 40

TOP_BAND = 0
# Band number, name, and the quantiles of the latent's firing activations that bound it.
BANDS = (
    (1, "strong", 0.75, 0.95),
    (2, "upper middle", 0.50, 0.75),
    (3, "lower middle", 0.25, 0.50),
    (4, "weak", 0.00, 0.25),
)

NEAR_BAND = 5  # near misses: contexts in which a latent stays silent, but nearly fires

# Table -> (columns, sort order).
TABLES: dict[str, tuple[str, str]] = {
    "meta": ("key VARCHAR, value VARCHAR", "key"),
    # n: counted occurrences in the text read.  piece: the token's bytes (possibly a part of a character)
    "token": ("token INTEGER, piece BLOB, special BOOLEAN, n BIGINT", "token"),
    "document": ("doc INTEGER, name VARCHAR", "doc"),
    "latent": (
        # counts are over counted tokens, moments over the tokens on which the latent fires
        "latent INTEGER, n_tokens BIGINT, n_contexts BIGINT, density DOUBLE, max_act FLOAT, mean_act FLOAT,"
        " std_act FLOAT, skew_act FLOAT, hist UINTEGER[], mean_position FLOAT, n_first BIGINT, n_last BIGINT,"
        # flags: `sae.store.records.FLAGS` defines each
        " dead BOOLEAN, dense BOOLEAN, rare BOOLEAN, single_token BOOLEAN, position_bound BOOLEAN,"
        " punctuation BOOLEAN, number BOOLEAN, capital BOOLEAN,"
        # tokens that it fires on, by count: id, count, lift = P(token | fires) / P(token), largest activation
        " top_tokens INTEGER[], top_token_n BIGINT[], top_token_lift FLOAT[], top_token_max FLOAT[],"
        # tokens that follow a firing, by count
        " next_tokens INTEGER[], next_token_n BIGINT[], next_token_lift FLOAT[],"
        # logits: W_dec . diag(final norm gain) . W_U, centred over the vocabulary
        " logit_pos INTEGER[], logit_pos_value FLOAT[], logit_neg INTEGER[], logit_neg_value FLOAT[],"
        " logit_hist UINTEGER[], logit_std FLOAT, logit_skew FLOAT, logit_kurtosis FLOAT,"
        # decoder neighbours by cosine, nearest first, without itself; alive latents only.  The first cosine is also a
        # column, because a sort by it would read the lists of all latents (older builds lack it)
        " neighbours INTEGER[], neighbour_cos FLOAT[], nearest_cos FLOAT,"
        " encoder_neighbours INTEGER[], encoder_neighbour_cos FLOAT[],"
        # co-firing latents (cofiring.py), by phi; implies: latents that fire whenever it does
        " together INTEGER[], together_given FLOAT[], together_lift FLOAT[], together_phi FLOAT[], max_phi FLOAT,"
        " implies INTEGER[], implies_given FLOAT[], implies_lift FLOAT[], implies_phi FLOAT[],"
        " implied_by INTEGER[], implied_by_given FLOAT[], implied_by_lift FLOAT[], implied_by_phi FLOAT[],"
        # a rule found on one half of the contexts, scored on the other (firing_rules.py)
        " rule_kind VARCHAR, rule_tokens INTEGER[], rule_class VARCHAR, rule_precision FLOAT, rule_recall FLOAT,"
        " rule_f1 FLOAT, map_x FLOAT, map_y FLOAT,"
        " encoder_norm FLOAT, encoder_decoder_cos FLOAT, mean_l0 FLOAT",
        "latent",
    ),
    # the contexts of latents, each as `n` tokens of a text from its token `first` on; the view `context` joins them
    "place": (
        # band 0: strongest first, one per distinct window; bands 1..4: random, reproducible
        # band 5: random near misses; act is the pre-activation, and pos is empty
        # pos/val: indices in the window at which the latent fires, and its activations; peak: index in the window
        "latent INTEGER, band UTINYINT, rank USMALLINT, act FLOAT, ctx BIGINT, doc INTEGER, doc_offset BIGINT,"
        " start USMALLINT, peak USMALLINT, text BIGINT, first USMALLINT, n USMALLINT, pos USMALLINT[], val FLOAT[],"
        " duplicates INTEGER",
        "latent, band, rank",
    ),
    # each text once, for all latents that fire in it: a context that was read (imported: a window of the file)
    "text": ("text BIGINT, tokens INTEGER[]", "text"),
    # for "search by token": every (token, latent) pair, most frequent first within a token
    "token_latent": ("token INTEGER, latent INTEGER, n BIGINT, max_act FLOAT, lift FLOAT", "token, n DESC, latent"),
    # latents per token: n counted tokens and n_bos BOS positions have l0 active latents
    "l0_hist": ("l0 INTEGER, n BIGINT, n_bos BIGINT", "l0"),
    "l0_position": ("position INTEGER, n BIGINT, sum_l0 BIGINT, sum_sq_l0 BIGINT, fvu FLOAT", "position"),
    "l0_token": ("token INTEGER, n BIGINT, sum_l0 BIGINT", "token"),
    # contexts with the L0 of each position (BOS included); latents: the strongest of each position
    # kind: any, or one of the contexts whose tokens need the `fewest` or `most` latents of all that were read
    "sample": ("sample INTEGER, kind VARCHAR, ctx BIGINT, doc INTEGER, doc_offset BIGINT, tokens INTEGER[],"
               " l0 INTEGER[]", "sample"),
    "sample_latent": (
        "sample INTEGER, position INTEGER, latents INTEGER[], acts FLOAT[]", "sample, position"),
    # imported dashboards only: a latent's own histogram edges, if `meta` has none for all; its explanations
    "latent_edges": ("latent INTEGER, hist_edges DOUBLE[], logit_edges DOUBLE[]", "latent"),
    "explanation": ("latent INTEGER, text VARCHAR, author VARCHAR", "latent"),
}

# Made in the attached database `build` once its tables are filled.
INDEXES = (
    "CREATE UNIQUE INDEX latent_row ON build.latent (latent)",
    "CREATE INDEX place_rows ON build.place (latent)",
)

# A view in the current database: the rows of `place` with their tokens.
CONTEXT_COLUMNS = (
    "latent INTEGER, band UTINYINT, rank USMALLINT, act FLOAT, ctx BIGINT, doc INTEGER, doc_offset BIGINT,"
    " start USMALLINT, peak USMALLINT, tokens INTEGER[], pos USMALLINT[], val FLOAT[], duplicates INTEGER")
CONTEXT_VIEW = """CREATE VIEW context AS SELECT latent, band, rank, act, ctx, doc, doc_offset, start, peak,
  list_slice(tokens, first + 1, first + n) AS tokens, pos, val, duplicates FROM place JOIN text USING (text)"""
