/* SPDX-License-Identifier: Apache-2.0 */
/* `mdn gc`: frees a repository's disk of what nothing needs any more. */
#include "cli/answers.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/push.h"
#include "cli/store_events.h"

#include <stdio.h>
#include <stdlib.h>

static void print_result(yyjson_val *r, bool dry_run)
{
	char freed[16], leased[16], kept[16];
	int64_t unreadable = answer_number(r, "unreadable"), manifests = answer_number(r, "manifests_gone");
	format_bytes((uint64_t)answer_number(r, "freed_bytes"), freed);
	format_bytes((uint64_t)answer_number(r, "leased_bytes"), leased);
	format_bytes((uint64_t)answer_number(r, "kept_bytes"), kept);
	printf(
	    "%s  %lld blobs, %s\nneeded       %lld blobs, %s\nkept so far  %lld blobs, %s, pushed or asked for within "
	    "gc_lease\n",
	    dry_run ? "would free " : "freed      ", (long long)answer_number(r, "freed"), freed,
	    (long long)answer_number(r, "kept"), kept, (long long)answer_number(r, "leased"), leased);
	if (manifests)
		printf("untagged     %lld manifests %s\n", (long long)manifests, dry_run ? "would go" : "went");
	if (unreadable)
		printf("%lld manifests cannot be read, and all their repositories have is kept: see `mdn fsck`\n",
		       (long long)unreadable);
}

int cmd_gc(const struct args *args)
{
	struct client *c;
	struct error err = {0};
	struct repository_at at;
	char url[700];
	yyjson_doc *result = NULL;
	bool dry_run = args_has(args, "dry-run");
	if (client_open(args_value(args, "operator"), &c, &err))
		return args_fail(args, &err);
	int rc = repository_find(c, args_value(args, "repository"), &at, &err);
	if (rc == 0) {
		snprintf(url, sizeof url, "%s/mdn/v1/gc?dry_run=%s&untagged=%s", at.url, dry_run ? "true" : "false",
		         args_has(args, "untagged") ? "true" : "false");
		rc = store_events_run(c, &(struct store_events){.url = url, .node_id = at.id}, &result, &err);
	}
	if (rc == 0 && args_has(args, "json")) {
		char *text = yyjson_write(result, 0, NULL);
		printf("%s\n", text ? text : "{}");
		free(text);
	} else if (rc == 0) {
		print_result(yyjson_doc_get_root(result), dry_run);
	}
	yyjson_doc_free(result);
	client_close(c);
	return rc ? args_fail(args, &err) : EXIT_DONE;
}
