"""Tests which messages tests/kernel-messages extracts from a source, and which it does not."""

import importlib.machinery
import importlib.util
import unittest

LOADER = importlib.machinery.SourceFileLoader("kernel_messages", "tests/kernel-messages")
SCRIPT = importlib.util.module_from_spec(importlib.util.spec_from_loader("kernel_messages", LOADER))
LOADER.exec_module(SCRIPT)

SOURCE = r'''
/* pr_err("not this, which is a comment\n"); */
static const char Bad_file[] = "Bad swap file entry ";

#define pmd_ERROR(e) \
	pr_err("%s:%d: bad pmd %016llx.\n", __FILE__, __LINE__, pmd_val(e))

static int __init setup(char *str)
{
	if (!str)
		pr_err("not this, of a command line\n");
	return 1;
}

static void report(void)
{
	pr_err_once("two literals "
		    "are one message, \"quoted\"\n");
	printk(KERN_ALERT "\n");
	printk(KERN_EMERG "\nbehind an empty line\nnot the second line");
	pr_warn("not this warning, at depth 4\n");
	printk("nor this, which is one\n");
	pr_info("nor this\n");
	panic("what a panic says: %d", 1);
	if (CHECK_DATA_CORRUPTION(!list_empty(&sb->s_inodes),
				  "Busy inodes of %s", sb->s_id))
		return;
}
'''


class Messages(unittest.TestCase):
    """Tests one source that has each kind of message."""

    def test_of_memory_management(self):
        found = [message for message in SCRIPT.messages("mm/x.c", SOURCE) if message]
        self.assertEqual(found, [
            "%s:%d: bad pmd %016llx.\\n", 'two literals are one message, "quoted"\\n', "behind an empty line\\n",
            "what a panic says: %d", "Busy inodes of %s", "%s: Bad swap file entry"])
        self.assertEqual(list(SCRIPT.messages("mm/x_test.c", SOURCE))[:-3], [])

    def test_of_a_file_that_reports_with_warnings(self):
        found = list(SCRIPT.messages("kernel/locking/lockdep.c", SOURCE))
        self.assertIn("not this warning, at depth 4\\n", found)
        self.assertIn("nor this, which is one\\n", found)
        self.assertNotIn("nor this\\n", found)

    def test_of_other_parts_only_the_worst(self):
        found = list(SCRIPT.messages("kernel/x.c", SOURCE))
        self.assertIn("behind an empty line\\n", found)
        self.assertNotIn("%s:%d: bad pmd %016llx.\\n", found)
        self.assertEqual(SCRIPT.depth("drivers/x.c"), 0)


if __name__ == "__main__":
    unittest.main()
