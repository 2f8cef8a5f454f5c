/* SPDX-License-Identifier: Apache-2.0 */
/* llama_mail.c - one lock, two lists. The loop is posted to only when the list out was empty, so a step of the batch
 * costs one post however many requests it served. */
#include "engine/llama_parts.h"

void llama_mail_init(struct llama_mail *mail, struct loop *loop, loop_fn *on_mail, void *arg)
{
	*mail = (struct llama_mail){.loop = loop, .on_mail = on_mail, .arg = arg};
	pthread_mutex_init(&mail->lock, NULL);
	pthread_cond_init(&mail->wake, NULL);
	mail->in_last = &mail->in_first;
	mail->out_last = &mail->out_first;
}

void llama_mail_fini(struct llama_mail *mail)
{
	pthread_mutex_destroy(&mail->lock);
	pthread_cond_destroy(&mail->wake);
}

void llama_mail_submit(struct llama_mail *mail, struct llama_request *request)
{
	pthread_mutex_lock(&mail->lock);
	request->thread.next = NULL;
	*mail->in_last = request;
	mail->in_last = &request->thread.next;
	mail->changed = true;
	pthread_cond_signal(&mail->wake);
	pthread_mutex_unlock(&mail->lock);
}

void llama_mail_wake(struct llama_mail *mail)
{
	pthread_mutex_lock(&mail->lock);
	mail->changed = true;
	pthread_cond_signal(&mail->wake);
	pthread_mutex_unlock(&mail->lock);
}

struct llama_event *llama_mail_take(struct llama_mail *mail)
{
	pthread_mutex_lock(&mail->lock);
	struct llama_event *first = mail->out_first;
	mail->out_first = NULL;
	mail->out_last = &mail->out_first;
	mail->posted = false;
	pthread_mutex_unlock(&mail->lock);
	return first;
}

bool llama_mail_is_posted(struct llama_mail *mail)
{
	pthread_mutex_lock(&mail->lock);
	bool posted = mail->posted;
	pthread_mutex_unlock(&mail->lock);
	return posted;
}

struct llama_numbers llama_mail_numbers(struct llama_mail *mail)
{
	pthread_mutex_lock(&mail->lock);
	struct llama_numbers numbers = mail->numbers;
	pthread_mutex_unlock(&mail->lock);
	return numbers;
}

struct llama_request *llama_mail_receive(struct llama_mail *mail, bool wait)
{
	pthread_mutex_lock(&mail->lock);
	while (wait && !mail->changed && !atomic_load(&mail->stop))
		pthread_cond_wait(&mail->wake, &mail->lock);
	struct llama_request *first = mail->in_first;
	mail->in_first = NULL;
	mail->in_last = &mail->in_first;
	mail->changed = false;
	pthread_mutex_unlock(&mail->lock);
	return first;
}

void llama_mail_send(struct llama_mail *mail, struct llama_event *first, const struct llama_numbers *numbers)
{
	bool post = false;

	pthread_mutex_lock(&mail->lock);
	if (numbers)
		mail->numbers = *numbers;
	if (first) {
		*mail->out_last = first;
		while (*mail->out_last)
			mail->out_last = &(*mail->out_last)->next;
		post = !mail->posted;
		mail->posted = true;
	}
	pthread_mutex_unlock(&mail->lock);
	if (post)
		loop_post(mail->loop, mail->on_mail, mail->arg);
}
