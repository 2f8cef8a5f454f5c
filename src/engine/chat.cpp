/* SPDX-License-Identifier: Apache-2.0 */
/* chat.cpp - every public function is one try block around the library; `told` turns what was thrown into words.
 *
 * Rendering with the library's parser generator costs milliseconds, since it probes the template each time. Most
 * requests have neither tools nor a schema, and most templates mark no reasoning: then the answer is plain text, and
 * the short way (force_pure_content) renders the same prompt. That both ways agree is checked once, at load. The
 * library logs prompts and answers; its log is switched off for good.
 */
#include "engine/chat.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

extern "C" {
#include "base/limits.h"
#include "base/rng.h"
}

#include <time.h>

#include <chat.h>
#include <common.h>
#include <json-schema-to-grammar.h>
#include <log.h>
#include <reasoning-budget.h>

struct chat {
	const llama_model *model;
	common_chat_templates_ptr templates;
	bool plain; /* without tools and schema the short way will do */
};

namespace
{

const double GRAMMAR_SECONDS_MAX = 0.4; /* typical ones take 0.01 */

struct prompt_inside {
	chat_prompt face{};
	common_chat_params params;
	common_chat_parser_params parser;
	std::vector<std::string> stop_texts;
	std::vector<str> stops;
	std::vector<int32_t> shown;
	bool prefill = false; /* the grammar begins with the generation prompt */
};

std::string text_of(str s)
{
	return std::string(s.base ? s.base : "", s.len);
}

str str_of(const std::string &s)
{
	return str{s.data(), s.size()};
}

/* Call from a catch block: the words of what was thrown, on one line. */
int told(error *err, int code, const char *what)
{
	std::string words;
	try {
		throw;
	} catch (const std::bad_alloc &) {
		return error_set(err, E_UNAVAILABLE, "%s: out of memory", what);
	} catch (const std::exception &e) {
		words = e.what();
	} catch (...) {
		words = "unknown failure";
	}
	std::replace_if(
	    words.begin(), words.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
	return error_set(err, code, "%s: %.400s", what, words.c_str());
}

const prompt_inside &inside(const chat_prompt *prompt)
{
	return *static_cast<prompt_inside *>(prompt->inside);
}

common_chat_templates_inputs inputs_of(const std::string &messages)
{
	common_chat_templates_inputs inputs;
	inputs.messages = common_chat_msgs_parse_oaicompat(common_json::parse(messages));
	inputs.use_jinja = true;
	inputs.add_generation_prompt = true;
	inputs.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
	for (const auto &message : inputs.messages)
		for (const auto &part : message.content_parts)
			if (part.type != "text")
				throw std::invalid_argument("only content parts of type \"text\" are supported");
	return inputs;
}

/* Would the short way give what the long one gives, prompt and answer? */
bool is_plain(const common_chat_templates *templates)
{
	const std::string answer = "A <b> & {\"c\": [1]}\n\n```d```  e";
	for (
	    const char *messages :
	    {R"([{"role":"user","content":"Hi"}])",
	     R"([{"role":"system","content":"S"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}])"}) {
		auto inputs = inputs_of(messages);
		auto full = common_chat_templates_apply(templates, inputs);
		inputs.force_pure_content = true;
		auto pure = common_chat_templates_apply(templates, inputs);
		if (full.supports_thinking || full.prompt != pure.prompt || !full.grammar.empty() ||
		    !full.additional_stops.empty() || !full.preserved_tokens.empty())
			return false;
		common_chat_parser_params parser(full);
		parser.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
		parser.parser.load(full.parser);
		auto parsed = common_chat_parse(answer, false, parser);
		if (parsed.content != answer || !parsed.reasoning_content.empty() || !parsed.tool_calls.empty())
			return false;
	}
	return true;
}

/* Tokens that the format wants to see although they are control tokens. */
void find_shown(prompt_inside &in, const llama_vocab *vocab)
{
	for (const auto &text : in.params.preserved_tokens) {
		auto ids = common_tokenize(vocab, text, false, true);
		if (ids.size() == 1)
			in.shown.push_back(ids[0]);
	}
	std::sort(in.shown.begin(), in.shown.end());
}

chat_prompt *face_of(std::unique_ptr<prompt_inside> in)
{
	for (const auto &stop : in->params.additional_stops)
		in->stops.push_back(str_of(stop));
	in->face.text = str_of(in->params.prompt);
	in->face.stops = in->stops.data();
	in->face.stop_count = in->stops.size();
	in->face.shown = in->shown.data();
	in->face.shown_count = in->shown.size();
	in->face.constrained = !in->params.grammar.empty();
	in->face.inside = in.get();
	return &in.release()->face;
}

/* The library's grammar for a required call lets any words come before it, and a model may never stop talking. The one
 * for a call that may come begins with the call, and binds from the first token on here. Not where the model thinks
 * first. */
void force_call(prompt_inside &in, const common_chat_templates *templates, common_chat_templates_inputs inputs)
{
	if (in.params.grammar.empty() || in.params.supports_thinking || !inputs.json_schema.empty())
		return;
	inputs.tool_choice = COMMON_CHAT_TOOL_CHOICE_AUTO;
	auto may = common_chat_templates_apply(templates, inputs);
	/* Its root may be empty; a call, where the format has that rule, begins with its mark. */
	size_t root = may.grammar.find("root ::= "), end = may.grammar.find('\n', root);
	if (!may.grammar_lazy || may.prompt != in.params.prompt || root == std::string::npos ||
	    may.grammar.find("\ntool-call ::= \"") == std::string::npos)
		return;
	in.params.grammar = may.grammar.replace(root, end - root, "root ::= tool-call");
	in.params.grammar_lazy = false;
	in.prefill = false; /* it does not begin with the generation prompt */
}

std::string grammar_of(const std::string &schema)
{
	return json_schema_to_grammar(common_json::parse(schema));
}

std::string schema_of(str json_schema)
{
	std::string schema = text_of(json_schema);
	return schema == "{}" ? R"({"type":"object"})" : schema;
}

} // namespace

extern "C" int chat_new(const llama_model *model, chat **ret_chat, error *err)
try {
	common_log_set_verbosity_thold(-1);
	if (!llama_model_chat_template(model, nullptr) && !llama_model_chat_template(model, "tool_use"))
		return error_set(err, E_NOTFOUND, "the model has no chat template");
	std::unique_ptr<chat> c(new chat{model, common_chat_templates_init(model, ""), false});
	c->plain = is_plain(c->templates.get());
	*ret_chat = c.release();
	return 0;
} catch (...) {
	return told(err, E_UNSUPPORTED, "the model's chat template cannot be rendered");
}

extern "C" void chat_free(chat *chat)
{
	delete chat;
}

extern "C" int chat_render(const chat *chat, const chat_ask *ask, chat_prompt **ret_prompt, error *err)
try {
	if (ask->tools_json.len > LIMIT_TOOLS_BYTES || ask->json_schema.len > LIMIT_SCHEMA)
		return error_set(err, E_LIMIT, "tools may have %d bytes, a schema %d", LIMIT_TOOLS_BYTES, LIMIT_SCHEMA);
	auto in = std::make_unique<prompt_inside>();
	auto inputs = inputs_of(text_of(ask->messages_json));
	inputs.add_generation_prompt = !ask->no_generation_prompt;
	if (ask->tools_json.len)
		inputs.tools = common_chat_tools_parse_oaicompat(common_json::parse(text_of(ask->tools_json)));
	if (ask->tool_choice.len)
		inputs.tool_choice = common_chat_tool_choice_parse_oaicompat(text_of(ask->tool_choice));
	if (inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED && inputs.tools.empty())
		throw std::invalid_argument("tool_choice \"required\" needs tools");
	if (ask->json_schema.len)
		inputs.json_schema = schema_of(ask->json_schema);
	bool plain = chat->plain && inputs.tools.empty() && inputs.json_schema.empty();
	inputs.force_pure_content = plain;
	in->params = common_chat_templates_apply(chat->templates.get(), inputs);
	if (inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED && in->params.grammar.empty())
		throw std::invalid_argument("it has no tool calls, and tool_choice asks for one");
	in->prefill = true;
	if (inputs.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED)
		force_call(*in, chat->templates.get(), inputs);
	if (!inputs.json_schema.empty() && in->params.grammar.empty()) {
		in->params.grammar = grammar_of(inputs.json_schema);
		in->prefill = false;
	}
	if (!plain) {
		in->parser = common_chat_parser_params(in->params);
		in->parser.reasoning_format = inputs.reasoning_format;
		in->parser.parse_tool_calls =
		    !inputs.tools.empty() && inputs.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE;
		if (!in->params.parser.empty())
			in->parser.parser.load(in->params.parser);
		find_shown(*in, llama_model_get_vocab(chat->model));
	}
	in->face.parsed = !plain;
	*ret_prompt = face_of(std::move(in));
	return 0;
} catch (...) {
	return told(err, E_INVAL, "the model's chat template does not take these messages");
}

extern "C" int chat_constrain(const llama_model *model, str json_schema, chat_prompt **ret_prompt, error *err)
try {
	(void)model;
	if (json_schema.len > LIMIT_SCHEMA)
		return error_set(err, E_LIMIT, "a schema may have %d bytes", LIMIT_SCHEMA);
	auto in = std::make_unique<prompt_inside>();
	in->params.grammar = grammar_of(schema_of(json_schema));
	*ret_prompt = face_of(std::move(in));
	return 0;
} catch (...) {
	return told(err, E_INVAL, "response_format: this schema cannot be turned into a grammar");
}

extern "C" void chat_prompt_free(chat_prompt *prompt)
{
	if (prompt)
		delete static_cast<prompt_inside *>(prompt->inside);
}

/* ---- the vocabulary as a tree ------------------------------------------------------------------- */

/* A token whose beginning is refused is refused itself. So the tokens are kept sorted by their bytes, where all that
 * begin with a token follow it up to its `end`, and a mask goes down the tree only where the grammar follows: where it
 * wants a quotation mark, some hundred tokens are tried instead of all. Control tokens may be known to a grammar by
 * number, so they begin nothing. */
enum piece_kind : unsigned char {
	PIECE_WHOLE,  /* characters */
	PIECE_PART,   /* begins or ends amid one, or is none */
	PIECE_HIDDEN, /* no text of an answer, unless its format shows it */
	PIECE_END,
};

struct chat_pieces {
	const llama_model *model;
	std::once_flag once;
	std::vector<piece_kind> kinds;
	bool completes = false; /* what begins a character can be completed, byte by byte */
	llama_token end_token = LLAMA_TOKEN_NULL;
	std::vector<llama_token> order;
	std::vector<size_t> end;
	std::vector<llama_token> apart; /* tried each time */

	void make();
	void make_kinds(const llama_vocab *vocab, const std::vector<std::string> &texts);
};

/* Where its bytes are UTF-8 up to a character that may still come whole. A NUL is none: the library reads up to it. */
static bool is_utf8(const std::string &text, size_t *ret_whole)
{
	*ret_whole = utf8_valid_prefix(str_of(text));
	str rest = {text.data() + *ret_whole, text.size() - *ret_whole};
	return text.find('\0') == std::string::npos && rest.len < 4 && (!rest.len || utf8_complete_prefix(rest) == 0);
}

void chat_pieces::make_kinds(const llama_vocab *vocab, const std::vector<std::string> &texts)
{
	bool bytes[64] = {false};

	for (llama_token t = 0; t < (llama_token)texts.size(); t++) {
		const auto &text = texts[(size_t)t];
		size_t whole;
		piece_kind kind = is_utf8(text, &whole) && whole == text.size() ? PIECE_WHOLE : PIECE_PART;
		if (llama_vocab_is_eog(vocab, t))
			end_token = t, kind = PIECE_END;
		else if (llama_vocab_get_attr(vocab, t) & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN))
			kind = PIECE_HIDDEN;
		else if (text.size() == 1 && ((unsigned char)text[0] & 0xc0) == 0x80)
			bytes[text[0] & 0x3f] = true;
		kinds.push_back(kind);
	}
	completes = std::find(bytes, bytes + 64, false) == bytes + 64;
}

void chat_pieces::make()
{
	const llama_vocab *vocab = llama_model_get_vocab(model);
	int32_t count = llama_vocab_n_tokens(vocab);
	std::vector<std::string> texts((size_t)count);
	const int special = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED | LLAMA_TOKEN_ATTR_UNKNOWN |
	                    LLAMA_TOKEN_ATTR_UNUSED;

	for (llama_token t = 0; t < count; t++) {
		texts[(size_t)t] = common_token_to_piece(vocab, t, true);
		if ((llama_vocab_get_attr(vocab, t) & special) || llama_vocab_is_eog(vocab, t) ||
		    texts[(size_t)t].empty())
			apart.push_back(t);
		else
			order.push_back(t);
	}
	make_kinds(vocab, texts);
	std::sort(order.begin(), order.end(),
	          [&](llama_token a, llama_token b) { return texts[(size_t)a] < texts[(size_t)b]; });
	std::vector<size_t> open;
	end.resize(order.size(), order.size());
	for (size_t i = 0; i < order.size(); i++) {
		const auto &text = texts[(size_t)order[i]];
		while (!open.empty()) {
			const auto &begin = texts[(size_t)order[open.back()]];
			if (begin.size() < text.size() && text.compare(0, begin.size(), begin) == 0)
				break;
			end[open.back()] = i;
			open.pop_back();
		}
		open.push_back(i);
	}
}

extern "C" chat_pieces *chat_pieces_new(const llama_model *model)
{
	auto *pieces = new chat_pieces;
	pieces->model = model;
	return pieces;
}

extern "C" void chat_pieces_free(chat_pieces *pieces)
{
	delete pieces;
}

/* ---- grammar: as common/sampling.cpp does it -------------------------------------------------- */

/* Besides the library's rules: it reads lone, overlong and surrogate bytes as characters, and control tokens as their
 * names, but what clients get of these is U+FFFD and nothing. */
struct chat_grammar {
	const chat_pieces *pieces = nullptr;
	llama_sampler *rules = nullptr;
	/* Follows thinking marks: a lazy grammar must sleep while the model thinks. */
	llama_sampler *thinking = nullptr;
	bool lazy = false, awake = false;
	std::vector<int32_t> shown;
	std::string cut; /* of the last character, what has come */

	~chat_grammar()
	{
		llama_sampler_free(rules);
		llama_sampler_free(thinking);
	}

	bool applies() const
	{
		if (!thinking || !lazy)
			return true;
		auto state = common_reasoning_budget_get_state(thinking);
		return state == REASONING_BUDGET_IDLE || state == REASONING_BUDGET_DONE;
	}

	bool follows(llama_token token) const
	{
		llama_token_data one = {token, 1.0f, 0.0f};
		llama_token_data_array array = {&one, 1, -1, false};
		llama_sampler_apply(rules, &array);
		return one.logit != -INFINITY;
	}

	bool spells(llama_token token) const;
	void spell(llama_token token);
	void accept(llama_token token);
};

/* Is the answer's text UTF-8 with this token, and does the token show in it? */
bool chat_grammar::spells(llama_token token) const
{
	size_t whole;

	if (!awake)
		return true;
	switch (pieces->kinds[(size_t)token]) {
	case PIECE_HIDDEN:
		return cut.empty() && std::binary_search(shown.begin(), shown.end(), token);
	case PIECE_PART: {
		auto text = cut + common_token_to_piece(llama_model_get_vocab(pieces->model), token, true);
		return is_utf8(text, &whole) && (pieces->completes || whole == text.size());
	}
	default:
		return cut.empty();
	}
}

void chat_grammar::spell(llama_token token)
{
	size_t whole;

	if (pieces->kinds[(size_t)token] != PIECE_PART || !awake) {
		cut.clear();
		return;
	}
	cut += common_token_to_piece(llama_model_get_vocab(pieces->model), token, true);
	is_utf8(cut, &whole);
	cut.erase(0, whole);
}

void chat_grammar::accept(llama_token token)
{
	bool applied = applies();

	/* The library would abort on an end that it refuses. */
	if (applied && (!spells(token) || (pieces->kinds[(size_t)token] == PIECE_END && !follows(token))))
		throw std::runtime_error("the model has no token that fits");
	if (thinking) {
		llama_sampler_accept(thinking, token);
		/* The end mark may be what wakes the grammar. */
		if (!applied && common_reasoning_budget_get_state(thinking) == REASONING_BUDGET_DONE)
			if (auto *end = common_reasoning_budget_get_end_match(thinking))
				for (llama_token t : *end)
					llama_sampler_accept(rules, t);
	}
	if (!applied)
		return;
	llama_sampler_accept(rules, token);
	spell(token);
	/* Asleep it lets everything pass; awake it refuses an end until it is complete. */
	if (!awake && pieces->end_token != LLAMA_TOKEN_NULL)
		awake = !follows(pieces->end_token);
}

namespace
{

/* What the library's rules take and no reader of JSON does: exponents of 16 digits (1e92110), halves of surrogate
 * pairs, quotation marks for the dot of a pattern, and other slips. */
std::string tame(std::string grammar)
{
	static const struct {
		const char *wild, *tame;
	} slips[] = {
	    {R"(([eE] [-+]? integral-part)?)", R"(([eE] [-+]? [0-9]{1,2})?)"},
	    {R"("u" [0-9a-fA-F]{4})",
	     R"("u" ([0-9abcefABCEF] [0-9a-fA-F]{3} | [dD] ([0-7] [0-9a-fA-F]{2} | [89abAB] [0-9a-fA-F]{2} "\\u" [dD] [c-fC-F] [0-9a-fA-F]{2})))"},
	    {R"([^\x0A\x0D])", R"([^"\\\x7F\x00-\x1F])"},
	    {R"([^"\\] | "\\" ( ["\\/ bfnrt])", R"([^"\\\x00-\x1F] | "\\" ( ["\\/bfnrt])"},
	};

	for (const auto &slip : slips)
		for (size_t at = 0; (at = grammar.find(slip.wild, at)) != std::string::npos; at += strlen(slip.tame))
			grammar.replace(at, strlen(slip.wild), slip.tame);
	return grammar;
}

llama_sampler *lazy_rules(const common_chat_params &params, const std::string &grammar, const llama_vocab *vocab)
{
	std::vector<std::string> patterns;
	std::vector<const char *> pattern_texts;
	std::vector<llama_token> tokens;

	for (const auto &trigger : params.grammar_triggers) {
		if (trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN) {
			tokens.push_back(trigger.token);
		} else if (trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_WORD) {
			auto ids = common_tokenize(vocab, trigger.value, false, true);
			if (ids.size() == 1)
				tokens.push_back(ids[0]);
			else
				patterns.push_back(regex_escape(trigger.value));
		} else if (trigger.type == COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL && !trigger.value.empty()) {
			patterns.push_back((trigger.value.front() != '^' ? "^" : "") + trigger.value +
			                   (trigger.value.back() != '$' ? "$" : ""));
		} else {
			patterns.push_back(trigger.value);
		}
	}
	for (const auto &pattern : patterns)
		pattern_texts.push_back(pattern.c_str());
	return llama_sampler_init_grammar_lazy_patterns(vocab, grammar.c_str(), "root", pattern_texts.data(),
	                                                pattern_texts.size(), tokens.data(), tokens.size());
}

std::vector<llama_token> generation_tokens(const std::string &text, const llama_vocab *vocab)
{
	std::vector<llama_token> tokens;
	if (text.empty())
		return tokens;
	auto all = common_tokenize(vocab, text, false, true);
	for (size_t i = 0; i < all.size(); i++) {
		auto piece = common_token_to_piece(vocab, all[i], true);
		/* Some tokenizers put a space before the first special token; the template did not. */
		if (i == 0 && !piece.empty() && std::isspace((unsigned char)piece[0]) &&
		    !std::isspace((unsigned char)text[0]))
			continue;
		tokens.push_back(all[i]);
	}
	return tokens;
}

double thread_seconds()
{
	timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Grammars come from strangers, and some cost seconds a token, which every stream of the batch would wait for. So the
 * first token is tried here, on the caller's thread; one candidate at a time, so that the trial ends in time, too. */
bool is_affordable(const std::string &grammar, const llama_vocab *vocab)
{
	llama_sampler *rules = llama_sampler_init_grammar(vocab, grammar.c_str(), "root");
	const int32_t n = llama_vocab_n_tokens(vocab);
	const double until = thread_seconds() + GRAMMAR_SECONDS_MAX;
	bool affordable = true;

	for (int32_t token = 0; rules && affordable && token < n; token++) {
		llama_token_data one = {token, 0.0f, 0.0f};
		llama_token_data_array array = {&one, 1, -1, false};
		llama_sampler_apply(rules, &array);
		affordable = thread_seconds() < until;
	}
	llama_sampler_free(rules);
	return affordable;
}

} // namespace

extern "C" int chat_grammar_new(const chat_prompt *prompt, chat_pieces *pieces, chat_grammar **ret_grammar, error *err)
try {
	const auto &in = inside(prompt);
	const auto &params = in.params;
	const llama_vocab *vocab = llama_model_get_vocab(pieces->model);
	auto g = std::make_unique<chat_grammar>();

	std::call_once(pieces->once, [&] { pieces->make(); });
	g->pieces = pieces;

	const std::string grammar = tame(params.grammar);
	if (!is_affordable(grammar, vocab))
		return error_set(err, E_LIMIT,
		                 "the schema or the tools make a grammar too costly to follow: simplify them");
	g->lazy = params.grammar_lazy;
	g->awake = !g->lazy;
	g->shown = in.shown;
	g->rules =
	    g->lazy ? lazy_rules(params, grammar, vocab) : llama_sampler_init_grammar(vocab, grammar.c_str(), "root");
	if (!g->rules)
		return error_set(err, E_INVAL,
		                 "the grammar made of the schema or the tools is not accepted; simplify them");
	auto begun = generation_tokens(params.generation_prompt, vocab);
	if (!g->lazy && in.prefill)
		for (llama_token token : begun)
			llama_sampler_accept(g->rules, token);
	if (g->lazy && !params.thinking_start_tag.empty() && !params.thinking_end_tags.empty()) {
		std::vector<llama_tokens> ends;
		for (const auto &tag : params.thinking_end_tags)
			ends.push_back(common_tokenize(vocab, tag, false, true));
		g->thinking = common_reasoning_budget_init(
		    vocab, {common_tokenize(vocab, params.thinking_start_tag, false, true)}, ends, {}, INT32_MAX);
		for (llama_token token : begun)
			llama_sampler_accept(g->thinking, token);
	}
	*ret_grammar = g.release();
	return 0;
} catch (...) {
	return told(err, E_INVAL, "the grammar made of the schema or the tools is not accepted");
}

extern "C" void chat_grammar_free(chat_grammar *grammar)
{
	delete grammar;
}

extern "C" bool chat_grammar_allows(chat_grammar *grammar, int32_t token)
try {
	return !grammar->applies() || (grammar->spells(token) && grammar->follows(token));
} catch (...) {
	return false;
}

extern "C" void chat_grammar_mask(chat_grammar *grammar, float *logits, int32_t vocab)
try {
	if (!grammar->applies())
		return;
	const auto &tree = *grammar->pieces;
	std::vector<float> masked((size_t)vocab, -INFINITY);
	std::vector<llama_token_data> some;
	std::vector<size_t> places; /* in the tree, of `some`; first one level, then the next */

	auto apply = [&] {
		llama_token_data_array array = {some.data(), some.size(), -1, false};
		llama_sampler_apply(grammar->rules, &array);
		for (auto &one : some) {
			one.logit = grammar->spells(one.id) ? one.logit : -INFINITY;
			masked[(size_t)one.id] = one.logit;
		}
	};
	for (llama_token t : tree.apart)
		some.push_back(llama_token_data{t, logits[t], 0.0f});
	apply();
	for (size_t at = 0; at < tree.order.size(); at = tree.end[at])
		places.push_back(at);
	while (!places.empty()) {
		std::vector<size_t> next;
		some.clear();
		for (size_t at : places)
			some.push_back(llama_token_data{tree.order[at], 0.0f, 0.0f});
		apply();
		for (size_t i = 0; i < places.size(); i++) {
			if (some[i].logit == -INFINITY)
				continue;
			masked[(size_t)some[i].id] = logits[some[i].id];
			for (size_t at = places[i] + 1; at < tree.end[places[i]]; at = tree.end[at])
				next.push_back(at);
		}
		places.swap(next);
	}
	std::copy(masked.begin(), masked.end(), logits);
} catch (...) {
	/* Nothing is masked then; the token is refused by chat_grammar_accept, which can tell the words. */
}

extern "C" int chat_grammar_accept(chat_grammar *grammar, int32_t token, error *err)
try {
	grammar->accept(token);
	return 0;
} catch (...) {
	return told(err, E_INTERNAL, "the answer left the grammar");
}

/* ---- reading answers --------------------------------------------------------------------------- */

struct chat_reader {
	common_chat_parser_params parser;
	std::string text;     /* all of the answer */
	size_t parsed_at = 0; /* its length at the last parse */
	common_chat_msg told; /* what was given out */
	std::vector<std::string> ids;
	std::string id; /* what they are made of; empty: chance */
	std::vector<bool> named;
	std::string delta_text, delta_reasoning, delta_calls;

	bool broken = false;

	void parse(bool complete, bool last);
	bool read(bool last);
	void call_delta(size_t index, std::string &out, const std::string &arguments);
};

extern "C" chat_reader *chat_reader_new(const chat_prompt *prompt, str id)
{
	auto *reader = new chat_reader;
	reader->id.assign(id.base ? id.base : "", id.len);
	reader->parser = inside(prompt).parser;
	return reader;
}

extern "C" void chat_reader_free(chat_reader *reader)
{
	delete reader;
}

extern "C" bool chat_reader_has_tool_calls(const chat_reader *reader)
{
	return !reader->told.tool_calls.empty();
}

void chat_reader::call_delta(size_t index, std::string &out, const std::string &arguments)
{
	common_json delta = common_json::object();
	common_json function = common_json::object();

	delta["index"] = (int64_t)index;
	if (index >= named.size())
		named.resize(index + 1, false);
	if (!named[index]) {
		delta["id"] = told.tool_calls[index].id;
		delta["type"] = "function";
		function["name"] = told.tool_calls[index].name;
		named[index] = true;
	}
	function["arguments"] = arguments;
	delta["function"] = function;
	out += out.empty() ? "[" : ",";
	out += delta.dump_safe();
}

void chat_reader::parse(bool complete, bool last)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	auto before = told;
	auto now = common_chat_parse(text, !complete, parser);

	parsed_at = text.size();
	if (now.empty())
		return;
	now.set_tool_call_ids(ids, [this] {
		std::string made = "call_";
		struct rng rng;
		rng_init(&rng,
		         id.empty() ? rng_seed() : std::hash<std::string>{}(id + "/" + std::to_string(ids.size())));
		for (int i = 0; i < 24; i++)
			made += letters[rng_below(&rng, 62)];
		return made;
	});
	told = now;
	for (const auto &diff : common_chat_msg_diff::compute_diffs(before, now)) {
		delta_text += diff.content_delta;
		delta_reasoning += diff.reasoning_content_delta;
		/* A name may still grow while there are no arguments; it goes out with the first of them. */
		size_t index = diff.tool_call_index;
		if (index != std::string::npos && !diff.tool_call_delta.arguments.empty())
			call_delta(index, delta_calls, diff.tool_call_delta.arguments);
	}
	for (size_t i = 0; last && i < told.tool_calls.size(); i++)
		if (i >= named.size() || !named[i])
			call_delta(i, delta_calls, told.tool_calls[i].arguments);
}

/* A complete answer may have been cut by max_tokens: then what can be read of it counts. */
bool chat_reader::read(bool last)
{
	for (bool complete : {last, false}) {
		try {
			parse(complete, last);
			return true;
		} catch (...) {
			if (!complete)
				break;
		}
	}
	return false;
}

extern "C" void chat_reader_add(chat_reader *reader, str text, bool last, chat_delta *ret_delta)
{
	reader->delta_text.clear();
	reader->delta_reasoning.clear();
	reader->delta_calls.clear();
	reader->text.append(text.base ? text.base : "", text.len);
	/* Each parse reads the whole answer again, so long answers are parsed in coarser steps. */
	if (reader->broken || last || reader->text.size() - reader->parsed_at > reader->text.size() / 512) {
		if (!reader->broken && !reader->read(last))
			reader->broken = true;
		if (reader->broken) {
			reader->delta_text = reader->text.substr(reader->parsed_at);
			reader->parsed_at = reader->text.size();
		}
	}
	if (!reader->delta_calls.empty())
		reader->delta_calls += "]";
	ret_delta->text = str_of(reader->delta_text);
	ret_delta->reasoning = str_of(reader->delta_reasoning);
	ret_delta->tool_calls_json = str_of(reader->delta_calls);
}
