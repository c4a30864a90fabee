include $(sort $(wildcard $(BR2_EXTERNAL_TABLEWALK_PATH)/package/*/*.mk))
